"""Whatever a module is called, each command runs on its net: with the default rules, and by its name."""

import warnings
from pathlib import Path

import pytest
from support.command import bayesprune, inside

MINE = """
import torch
from torch import nn
from torch.utils.data import TensorDataset

def data():
    g = torch.Generator().manual_seed(0)
    part = TensorDataset(torch.randn(48, 8, generator=g), torch.randint(0, 3, (48,), generator=g))
    return part, part

class Net(nn.Module):
    def __init__(self, *keys):
        super().__init__()
        self.h, self.o = nn.ModuleDict({key: nn.Linear(8, 8) for key in keys}), nn.Linear(8, 3)
    def forward(self, x):
        for layer in self.h.values():
            x = layer(x).relu()
        return self.o(x)
"""

KEYS = {
    "brackets": ("task[0]", "task0"),
    "brackets that do not close": ("a]b[", "[!x]"),
    "a slash": ("user/item", "/up/"),
    "an equals sign": ("a=b", "=", "a = SparseVD()"),
    "globs": ("*", "h?"),
    "not of ASCII": ("größe", "大", "🙂"),
    "digits": ("0", "10"),
    "ours": ("y", "data", "weight", "example", "draw"),
    "blanks and dashes": (" a", "-x", "a b", "--net"),
    "quotes": ("it's", 'a"b', "back\\slash", "$HOME", "%2F"),
    "marks of rich": ("[red]a[/red]", "{b}"),
}


@pytest.mark.parametrize("kind", KEYS)
def test_a_run_from_fit_to_export(tmp_path: Path, kind: str) -> None:
    keys = KEYS[kind]
    (tmp_path / "mine.py").write_text(MINE, encoding="utf-8")
    with inside(tmp_path), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        net = f"mine:Net({', '.join(map(repr, keys))})"
        fitted = bayesprune("fit", "--net", net, "--data", "mine:data", "--epochs", "1", "--out", "run")
        assert fitted.code == 0, fitted.err
        names = {f"h.{key}.weight" for key in keys} | {"o.weight"}
        masks = bayesprune("masks", "run", "--keep", "0.5", "--trust", "--json").json
        assert set(masks["weights"]) == names
        assert bayesprune("info", "run").code == 0
        packed = bayesprune("export", "run", "--trust")
        assert packed.code == 0, packed.err
        assert bayesprune("info", "run/model.safetensors").code == 0


@pytest.mark.parametrize("key", ["task[0]", "a=b", "a = ARD()", "user/item", "größe", "y", "a]b[", "*"])
def test_a_rule_by_the_name_itself_takes_that_weight_alone(tmp_path: Path, key: str) -> None:
    (tmp_path / "mine.py").write_text(MINE, encoding="utf-8")
    with inside(tmp_path):
        net, rule = f"mine:Net({key!r}, 'task0')", f"h.{key}.weight=SparseVD()"
        done = bayesprune(
            "fit", "--net", net, "--data", "mine:data", "--epochs", "1", "--rule", rule, "--out", "run", "--json"
        )
        assert done.code == 0, done.err
        masks = bayesprune("masks", "run", "--keep", "0.5", "--trust", "--json").json
        assert set(masks["weights"]) == {f"h.{key}.weight"}
