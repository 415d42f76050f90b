"""Nets of Hugging Face on the batches of its own collators: named inputs, labels beside them, logits found."""

import warnings
from typing import Any

import pytest
import torch
from torch import nn

import bayesprune as bp

transformers = pytest.importorskip("transformers")

IDS = torch.randint(1, 30, (8, 6), generator=torch.Generator().manual_seed(0))
SEEN = torch.ones(8, 6, dtype=torch.int64)
SEEN[::2, 4:] = 0
TAGS = torch.where(SEEN > 0, IDS % 3, -100)


def batches(**columns: torch.Tensor) -> list[Any]:
    return [transformers.BatchEncoding({k: v[i : i + 4] for k, v in columns.items()}) for i in (0, 4)]


def tagger() -> nn.Module:
    torch.manual_seed(0)
    small = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    config = transformers.BertConfig(vocab_size=30, max_position_embeddings=8, num_labels=3, **small)
    return transformers.BertForTokenClassification(config)


def decoder() -> nn.Module:
    torch.manual_seed(0)
    return transformers.GPT2LMHeadModel(
        transformers.GPT2Config(vocab_size=30, n_embd=16, n_layer=1, n_head=2, n_positions=8)
    )


def test_a_tagger_is_fitted_and_judged_on_its_own_batches() -> None:
    data = batches(input_ids=IDS, attention_mask=SEEN, labels=TAGS)
    net = tagger().eval()
    bnet = bp.BayesianNet(net, {"*layer*dense.weight": bp.SparseVD()})
    history = bp.fit(bp.classify(bnet, 8), bnet.guide, data, epochs=15, lr=0.02, warmup=100, seed=0, progress=False)
    assert history.nll[-1] < 0.7 * history.nll[0]
    masks = bp.masks(bnet, keep=0.6)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        report = bp.report(bnet, masks, data, draws=2)
    assert report.models[0].score.n == int((TAGS != -100).sum())
    with torch.no_grad():
        loss = net(input_ids=IDS, attention_mask=SEEN, labels=TAGS).loss
    assert report.models[0].score.nll == pytest.approx(float(loss), rel=1e-4)


def test_labels_that_repeat_the_inputs_are_those_of_the_next_word_or_refused() -> None:
    net = decoder().eval()
    labels = torch.where(SEEN > 0, IDS, -100)
    data = batches(input_ids=IDS, attention_mask=SEEN, labels=labels)
    bnet = bp.BayesianNet(net, {"*c_*.weight": bp.Gaussian(init_log_scale=-10.0)})
    with pytest.raises(ValueError, match="shift=True"):
        bp.fit(bp.classify(bnet, 8), bnet.guide, data, epochs=1, progress=False)
    bp.classify(bnet, 8, shift=True)
    curve = bp.sweep(bnet, data, keep=[0.9], saliencies=[bp.snr])
    with torch.no_grad():
        loss = net(input_ids=IDS, attention_mask=SEEN, labels=labels).loss  # which shifts them itself
    assert curve.points[0].score.nll == pytest.approx(float(loss), rel=1e-4)
    assert curve.points[0].score.n == int((labels[:, 1:] != -100).sum())
