"""Whole small Hugging Face models, random weights from a config: every method, and the way from fit to file."""

import copy
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from itertools import cycle, product
from typing import Any

import pytest
import torch
from pyro import poutine
from support.layers import backward, labels, prune_some, randomised, seed, some, untouched
from support.methods import CASES, COSTS, samples
from support.passes import CERTAIN, draw_and_run
from torch import Tensor, nn

import bayesprune as bp
from bayesprune.draws.gaussian import Estimator
from bayesprune.methods import Method
from bayesprune.patterns import Block, Channel, Heads, Pattern, Unstructured
from bayesprune.sparse import BSR, SparseLinear

transformers = pytest.importorskip("transformers")


class Logits(nn.Module):
    """A model that returns its logits alone."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        return self.model(x).logits


def gpt2() -> nn.Module:
    """Conv1D layers, and one matrix for embedding and head."""
    sizes = {"n_layer": 2, "n_embd": 16, "n_head": 2, "n_positions": 8, "vocab_size": 12}
    dropout = {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}
    return Logits(transformers.GPT2LMHeadModel(transformers.GPT2Config(**sizes, **dropout)))


def bert() -> nn.Module:
    sizes = {"num_hidden_layers": 1, "hidden_size": 16, "num_attention_heads": 2, "intermediate_size": 24}
    dropout = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    config = transformers.BertConfig(**sizes, **dropout, vocab_size=12, max_position_embeddings=8)
    return Logits(transformers.BertForSequenceClassification(config))


def vit() -> nn.Module:
    """A convolution cuts the patches."""
    sizes = {"num_hidden_layers": 1, "hidden_size": 16, "num_attention_heads": 2, "intermediate_size": 24}
    dropout = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    config = transformers.ViTConfig(**sizes, **dropout, image_size=4, patch_size=2, num_channels=2)
    return Logits(transformers.ViTForImageClassification(config))


@dataclass(frozen=True)
class Model:
    """How to make a model, an input, and which weights get which pattern."""

    make: Callable[[], nn.Module]
    example: Tensor
    patterns: dict[str, Pattern]

    def over(self, method: Callable[[Pattern], Method], **options: Any) -> tuple[nn.Module, bp.BayesianNet]:
        seed(0)
        net = randomised(self.make()).eval()  # as models come; the Bayesian net has a mode of its own
        return net, bp.BayesianNet(net, {glob: method(p) for glob, p in self.patterns.items()}, **options)


TOKENS = torch.arange(24).reshape(3, 8) % 12
IMAGES = torch.linspace(-1, 1, 96).reshape(3, 2, 4, 4)
MODELS = {
    "GPT-2": Model(
        gpt2,
        TOKENS,
        {
            "*.wte.weight": Channel(0),
            "*.c_attn.weight": Heads(2, packed=3),
            "*.attn.c_proj.weight": Heads(2, side="in"),
            "*.c_fc.weight": Block(4, 3),
            "*.mlp.c_proj.weight": Block(5, 1),
            "*.ln_?.weight": Unstructured(),
        },
    ),
    "BERT": Model(
        bert,
        TOKENS,
        {
            "*.word_embeddings.weight": Channel(0),
            "*.self.*.weight": Heads(2),
            "*.attention.output.dense.weight": Heads(2, side="in"),
            "*.dense.weight": Block(4, 3),
        },
    ),
    "ViT": Model(vit, IMAGES, {"*.projection.weight": Block(3, 2), "*.layer*.weight": Unstructured()}),
}

every_model = pytest.mark.parametrize("name", MODELS)
IN_TURN = list(zip(CASES, cycle(MODELS), strict=False))  # test_layers.py has every method on every kind of layer


@pytest.mark.parametrize(("case", "name"), IN_TURN)
def test_a_whole_model_keeps_the_contract(case: str, name: str) -> None:
    model = MODELS[name]
    net, bnet = model.over(CASES[case])
    with untouched(net), torch.no_grad():
        own = net(model.example)
        torch.testing.assert_close(bnet.eval().run(bnet.means(), model.example), own, rtol=1e-3, atol=1e-3)
        prior, guide = poutine.trace(bnet).get_trace(model.example), poutine.trace(bnet.guide).get_trace()
        assert samples(prior) == samples(guide)
        assert prior.nodes["_RETURN"]["value"].shape == own.shape
    prune_some(bnet)
    means, draw = bnet.means(), bnet.draw()
    for weight, posterior in bnet.posteriors.items():
        kept = some(posterior).flatten()[labels(net, weight, posterior.pattern)].expand(posterior.layout.shape)
        assert torch.equal(means[weight] != 0, kept), weight
        assert bool((draw[weight][~kept] == 0).all()), weight
    seed(3)
    draw = bnet.draw()
    twin = copy.deepcopy(bnet)
    seed(3)
    assert all(torch.equal(value, draw[key]) for key, value in twin.draw().items())


@pytest.mark.parametrize(
    ("case", "name", "estimator"),
    [
        *((*row, "local") for row in IN_TURN),
        *product(("sparse_vd", "normal_jeffreys"), MODELS, ("weight", "flipout")),
    ],
)
def test_gradients_reach_every_parameter_of_a_whole_model(case: str, name: str, estimator: Estimator) -> None:
    model = MODELS[name]
    net, bnet = model.over(CASES[case], estimator=estimator)
    with untouched(net):
        output = backward(bnet, (model.example,), 3)
    assert bool(torch.isfinite(output).all())
    for site, parameter in bnet._posteriors.named_parameters():
        assert parameter.grad is not None, site
        assert bool(torch.isfinite(parameter.grad).all()), site
        assert bool(parameter.grad.any()) or case in COSTS, site  # all gates may be shut


@every_model
@pytest.mark.parametrize("training", [True, False])
def test_without_variance_a_model_gives_its_own_outputs(name: str, training: bool) -> None:
    model = MODELS[name]
    net, bnet = model.over(lambda _: CERTAIN)
    bnet.train(training)
    for _ in range(2):
        torch.testing.assert_close(draw_and_run(bnet, model.example), net(model.example))


@pytest.mark.parametrize("method", [bp.SparseVD(Block(4, 1)), bp.GroupVD(Block(4, 1), tied=True)], ids=repr)
def test_a_gpt2_is_fitted_masked_exported_saved_and_loaded(method, tmp_path):
    seed(0)
    net = gpt2().eval()
    x, y = TOKENS, (TOKENS + 1) % 12
    bnet = bp.BayesianNet(net, {"*.c_*.weight": method})
    path = tmp_path / "model.safetensors"
    with untouched(net), warnings.catch_warnings():
        history = bp.fit(bp.classify(bnet, size=len(x)), bnet.guide, [(x, y)], epochs=25, lr=1e-2, seed=0)
        assert history.nll[-1] < 0.8 * history.nll[0]
        masks = bp.masks(bnet, keep=0.5)
        warnings.simplefilter("ignore")  # the forced format is slower than dense here
        sparse = bp.export(net, bnet.means(), masks, example=x, formats={"*": BSR(4, 1)})
        bp.save(sparse, path)
        loaded = bp.load(path, net=net)
    assert masks.keys() == bnet.posteriors.keys()
    assert sum(isinstance(module, SparseLinear) for module in sparse.modules()) == len(masks) == 8
    masked = {name: mean * masks.get(name, 1.0) for name, mean in bnet.state().values.items()}
    with torch.no_grad():
        torch.testing.assert_close(sparse(x), bnet.eval().run(masked, x), rtol=1e-4, atol=1e-5)
        assert torch.equal(loaded(x), sparse(x))
    assert loaded.model.lm_head.weight is loaded.model.transformer.wte.weight
