"""A net of Hugging Face on batches that are dicts, through every command."""

from pathlib import Path

import pytest
from support.command import bayesprune, inside

pytest.importorskip("transformers")

MINE = """
import torch
from torch.utils.data import Dataset
from transformers import BertConfig, BertForSequenceClassification

def net():
    config = BertConfig(
        vocab_size=20, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32,
        max_position_embeddings=8, num_labels=2,
    )
    return BertForSequenceClassification(config)

class Rows(Dataset):
    def __init__(self, count, seed):
        g = torch.Generator().manual_seed(seed)
        self.ids = torch.randint(1, 20, (count, 6), generator=g)
    def __len__(self):
        return len(self.ids)
    def __getitem__(self, i):
        row = self.ids[i]
        return {"input_ids": row, "attention_mask": torch.ones_like(row), "labels": (row[0] > 9).long()}

def data():
    return Rows(64, 0), Rows(32, 1), Rows(32, 2)
"""


def test_every_command(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(MINE)
    with inside(tmp_path):
        rule = ("--rule", "*.intermediate.dense.weight=SparseVD()")
        commands = {
            "fit": ("--net", "mine:net", "--data", "mine:data", *rule, "--epochs", "1", "--batch", "16", "--json"),
            "masks": ("run", "--keep", "20%", "--trust", "--json"),
            "sweep": ("run", "--keep", "20%", "--saliency", "snr", "--trust", "--json"),
            "report": ("run", "--draws", "2", "--html", "page.html", "--trust", "--json"),
            "export": ("run", "--format", "*=CSR()", "--trust", "--json"),
            "bench": ("run", "--budget", "0.02", "--no-rivals", "--trust", "--json"),
            "info": ("run", "--json"),
        }
        told = {}
        for command, args in commands.items():
            done = bayesprune(command, *args)
            assert done.code == 0, (command, done.err)
            told[command] = done.json
    shapes = told["bench"]["shape"]
    assert shapes == {"input_ids": [16, 6], "attention_mask": [16, 6]} and told["bench"]["speedup"] > 0
    assert told["bench"]["largest_difference"] < 1e-4
    assert list(told["bench"]["layers"]) == ["bert.encoder.layer.0.intermediate.dense"]
    assert {m["name"] for m in told["report"]["models"]} >= {"dense", "posterior mean, pruned"}
