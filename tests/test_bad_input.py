"""Bad input at every door: an error of a sensible type that repeats what was given and says what to do."""

import math
import re
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import bayesprune as bp

N = 12


def net() -> nn.Sequential:
    return nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3))


def new() -> bp.BayesianNet:
    return bp.BayesianNet(net(), {"*.weight": bp.SparseVD()})


class Two(nn.Module):
    """Takes one input by place or by name, or two."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(4, 3)

    def forward(self, input: Tensor, other: Tensor | None = None) -> Tensor:
        return self.fc(input if other is None else input + other)


def data() -> tuple[Tensor, Tensor]:
    return torch.randn(N, 4), torch.randint(3, (N,))


def fit(loader: Any, bnet: bp.BayesianNet | None = None, **kwargs: Any) -> Any:
    bnet = new() if bnet is None else bnet
    return bp.fit(bp.classify(bnet, N), bnet.guide, loader, **{"epochs": 1, "progress": False, **kwargs})


def two() -> bp.BayesianNet:
    return bp.BayesianNet(Two(), {"fc.weight": bp.SparseVD()})


def spoilt(value: float) -> Tensor:
    x = data()[0]
    x[3, 2] = value
    return x


def changed(make: Callable[[], nn.Module], name: str, value: float) -> nn.Module:
    made = make()
    made.get_parameter(name).data.view(-1)[5] = value
    return made


def one_pass() -> Iterator[Any]:
    yield data()


def fitted() -> bp.BayesianNet:
    bnet = new()
    bp.classify(bnet, N)
    return bnet


GOOD = (torch.zeros(4, 4), torch.zeros(4, dtype=torch.int64))

# what is wrong -> (what is done, the error's type, what its message says)
CASES: dict[str, tuple[Callable[[], Any], type[Exception], str]] = {
    # --- data
    "NaN in data": (lambda: fit([GOOD, (spoilt(math.nan), data()[1])]), ValueError, "batch 1 holds NaN.*inputs"),
    "infinity in data": (lambda: fit([(spoilt(math.inf), data()[1])]), ValueError, "batch 0 holds NaN or infinity"),
    "NaN in the second input": (
        lambda: fit([(data()[0], spoilt(math.nan), data()[1])], two()),
        ValueError,
        "batch 0 holds NaN",
    ),
    "NaN in a named input": (
        lambda: fit([({"input": spoilt(math.nan)}, data()[1])], two()),
        ValueError,
        "batch 0 holds NaN",
    ),
    "labels out of range": (lambda: fit([(data()[0], data()[1] + 1)]), ValueError, "0…2 for 3 logits, got 1…3"),
    "labels one too many classes": (
        lambda: fit([(data()[0], torch.full((N,), 3))]),
        ValueError,
        "labels must lie in 0…2 for 3 logits, got 3…3",
    ),
    "a batch of size 0": (lambda: fit([GOOD, (torch.zeros(0, 4), GOOD[1][:0])]), ValueError, "batch 1 is empty"),
    "a batch without targets": (lambda: fit([data()[0]]), ValueError, r"batch is \(x, y\).*got Tensor"),
    "a batch of one": (lambda: fit(DataLoader(TensorDataset(data()[0]))), ValueError, r"batch is \(x, y\).*got list"),
    "an empty list": (lambda: fit([]), ValueError, "the loader holds no batches"),
    "an empty loader": (
        lambda: fit(DataLoader(TensorDataset(*data()), batch_size=2 * N, drop_last=True)),
        ValueError,
        "the loader holds no batches",
    ),
    "a one-pass iterator": (lambda: fit(one_pass()), ValueError, "one-pass iterator.*DataLoader or a list"),
    "a batch larger than size": (
        lambda: fit([(torch.zeros(N + 1, 4), torch.zeros(N + 1, dtype=torch.int64))]),
        ValueError,
        f"batch of {N + 1} is larger than size={N}",
    ),
    # --- weights and rules
    "NaN in weights": (
        lambda: bp.BayesianNet(changed(net, "2.weight", math.nan), {"*.weight": bp.SparseVD()}),
        ValueError,
        r"'2\.weight' holds NaN or infinity",
    ),
    "infinity in weights": (
        lambda: bp.BayesianNet(changed(net, "0.weight", -math.inf), {"*.weight": bp.Gaussian()}),
        ValueError,
        r"'0\.weight' holds NaN or infinity",
    ),
    "weights without a shape": (
        lambda: bp.BayesianNet(nn.Sequential(nn.LazyLinear(3)), {"*": bp.SparseVD()}),
        ValueError,
        r"'0\.weight' has no shape yet: run the net once",
    ),
    "a rule that matches nothing": (
        lambda: bp.BayesianNet(net(), {"fc*.weight": bp.SparseVD()}),
        ValueError,
        r"'fc\*\.weight' matches no parameter.*'0\.weight', '0\.bias', '2\.weight', '2\.bias'",
    ),
    "a rule behind a wider one": (
        lambda: bp.BayesianNet(net(), {"*.weight": bp.SparseVD(), "2.weight": bp.Gaussian()}),
        ValueError,
        r"'2\.weight' matches no parameter: rule '\*\.weight' before it takes all",
    ),
    "a block larger than the weight": (
        lambda: bp.BayesianNet(net(), {"*.weight": bp.SparseVD(bp.Block(4, 4))}),
        ValueError,
        r"rule '\*\.weight' does not fit '2\.weight'.*Block\(4, 4\) is larger.*\(3, 6\).*at most \(3, 6\)",
    ),
    "a channel that is not there": (
        lambda: bp.BayesianNet(net(), {"*.bias": bp.SparseVD(bp.Channel(1))}),
        ValueError,
        r"rule '\*\.bias' does not fit '0\.bias'.*Channel\(1\).*\(6,\)",
    ),
    "heads that do not divide": (
        lambda: bp.BayesianNet(net(), {"0.weight": bp.SparseVD(bp.Heads(4))}),
        ValueError,
        r"'0\.weight'.*Heads\(4\).*6 outputs.*4 equal heads",
    ),
    "fewer inputs than m": (
        lambda: bp.BayesianNet(net(), {"0.weight": bp.SparseVD(bp.NM(2, 8))}),
        ValueError,
        r"'0\.weight'.*NM\(2, 8\) needs 8 inputs.*has 4",
    ),
    "a block of size 0": (lambda: bp.Block(0, 1), ValueError, "Block needs h to be an integer ≥ 1, got 0"),
    # --- budgets
    "keep 0": (lambda: bp.masks(new(), keep=0.0), ValueError, r"keep.*\(0, 1\], got 0\.0"),
    "keep negative": (lambda: bp.masks(new(), keep=-0.5), ValueError, r"keep.*\(0, 1\], got -0\.5"),
    "keep as a percentage": (lambda: bp.masks(new(), keep=10.0), ValueError, r"keep.*\(0, 1\], got 10\.0"),
    "keep nan": (lambda: bp.masks(new(), keep=math.nan), ValueError, r"keep.*\(0, 1\], got nan"),
    "keep and snr": (lambda: bp.masks(new(), keep=0.5, snr=1.0), ValueError, "keep=.*snr=.*not both"),
    "snr negative": (lambda: bp.masks(new(), snr=-1.0), ValueError, r"snr.*≥ 0.*got -1\.0"),
    "snr nan": (lambda: bp.masks(new(), snr=math.nan), ValueError, "snr.*≥ 0.*got nan"),
    "a schedule that keeps 0": (lambda: bp.Cubic(keep=0.0), ValueError, r"keep.*\(0, 1\], got 0\.0"),
    "a schedule that keeps 2": (lambda: bp.Cubic(keep=2.0), ValueError, r"keep.*\(0, 1\], got 2\.0"),
    # --- how to fit
    "no epochs": (lambda: fit([GOOD], epochs=0), ValueError, "epochs is an integer ≥ 1, got 0"),
    "a learning rate of 0": (lambda: fit([GOOD], lr=0.0), ValueError, r"lr.*> 0, got 0\.0"),
    "a learning rate of NaN": (lambda: fit([GOOD], lr=math.nan), ValueError, "lr.*> 0, got nan"),
    "a learning rate without end": (lambda: fit([GOOD], lr=math.inf), ValueError, "lr is a finite.*> 0, got inf"),
    "a decay of NaN": (lambda: fit([GOOD], decay=lambda p: math.nan), ValueError, "decay gives a finite.*got nan at 0"),
    "a decay below 0": (
        lambda: fit([GOOD], decay=lambda p: 1 - 2 * p),
        ValueError,
        r"decay gives .*got -0\.5 at 0\.75",
    ),
    "a decay without end": (
        lambda: fit([GOOD], decay=lambda p: math.inf if p else 1),
        ValueError,
        "decay.*inf at 0.25",
    ),
    "a decay that is NaN at one step": (
        lambda: fit([GOOD], epochs=3, decay=lambda p: 1.0 if p in (0, 0.25, 0.5, 0.75, 1) else math.nan),
        ValueError,
        "decay gives .*got nan at 0.3",
    ),
    "a negative warm-up": (lambda: fit([GOOD], warmup=-1.0), ValueError, r"warmup.*≥ 0, got -1\.0"),
    "a warm-up of NaN": (lambda: fit([GOOD], warmup=math.nan), ValueError, "warmup.*≥ 0, got nan"),
    "a device of no meaning": (lambda: fit([GOOD], device="gpu"), ValueError, "'gpu' names no device.*cpu, cuda"),
    "nothing to fit": (
        lambda: fit([GOOD], bp.BayesianNet(net(), {"*.weight": bp.SparseVD()}).requires_grad_(False)),
        ValueError,
        "nothing to fit",
    ),
    "the guide of another net": (
        lambda: bp.fit(bp.classify(new(), N), new().guide, [GOOD], epochs=1, progress=False),
        ValueError,
        r"one BayesianNet.*bnet\.guide",
    ),
    "a guide of no net": (
        lambda: bp.fit(lambda x, y: None, lambda x, y: None, [GOOD], epochs=1, progress=False),
        ValueError,
        r"one BayesianNet, found 0; pass bnet\.guide",
    ),
    # --- prediction
    "a mask of an unknown name": (
        lambda: bp.predict(fitted(), [GOOD], masks={"fc.weight": torch.ones(3, 6).bool()}),
        ValueError,
        r"'fc\.weight'.*no posterior.*'0\.weight', '2\.weight'",
    ),
    "a mask of the wrong shape": (
        lambda: bp.predict(fitted(), [GOOD], masks={"2.weight": torch.ones(6, 3).bool()}),
        ValueError,
        r"'2\.weight' must be bool of shape \(3, 6\), got torch\.bool of shape \(6, 3\)",
    ),
    "prediction without data": (lambda: bp.predict(fitted(), []), ValueError, "no batches"),
    "prediction without a likelihood": (lambda: bp.predict(new(), [GOOD]), ValueError, r"bp\.classify or bp\.regress"),
}


@pytest.mark.parametrize("what", CASES)
def test_bad_input_is_a_clear_error(what: str) -> None:
    do, kind, words = CASES[what]
    with pytest.raises(kind) as raised:
        do()
    assert type(raised.value).__module__ != "jaxtyping._decorator", "the type checker of the tests got there first"
    message = str(raised.value)
    assert "Trace Shapes" not in message, "Pyro's dump of all sites"
    assert re.search(words, message), message
    assert len(message) < 400
    assert raised.value.__cause__ is None  # the reason itself, not wrapped around an obscure one


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
@pytest.mark.parametrize("device", ["cuda", "cuda:1", torch.device("cuda")], ids=str)
def test_a_cuda_device_that_is_not_there_is_a_clear_error(device: Any) -> None:
    bnet = new()
    before = {name: value.clone() for name, value in bnet.state_dict().items()}
    with pytest.raises(ValueError, match=rf"'{device}' was asked for.*use device='cpu'"):
        fit([GOOD], bnet, device=device)
    assert all(torch.equal(value, before[name]) for name, value in bnet.state_dict().items())


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_cuda_device_of_too_high_a_number_is_a_clear_error() -> None:
    with pytest.raises(ValueError, match=r"'cuda:99' was asked for.*torch finds \d+"):
        fit([GOOD], device="cuda:99")


def test_bad_data_are_found_before_anything_is_learned() -> None:
    bnet = new()
    before = {name: value.clone() for name, value in bnet.state_dict().items()}
    with pytest.raises(ValueError, match="batch 0 holds NaN"):
        fit([(spoilt(math.nan), data()[1])], bnet)
    assert all(torch.equal(value, before[name]) for name, value in bnet.state_dict().items())


def test_the_loaders_own_error_passes_through() -> None:
    class Broken:
        def __len__(self) -> int:
            return 2

        def __iter__(self) -> Iterator[Any]:
            yield GOOD
            raise OSError("the disk is gone")

    with pytest.raises(OSError, match="the disk is gone"):
        fit(Broken())


def test_a_rule_that_is_no_method_is_a_type_error() -> None:
    with pytest.raises(TypeError):
        bp.BayesianNet(net(), {"*.weight": bp.SparseVD})  # type: ignore[dict-item]


def test_a_mask_that_empties_a_layer_is_a_warning_that_names_it() -> None:
    bnet = new()
    bnet.prune({"2.weight": torch.zeros(3, 6, dtype=torch.bool)})
    with pytest.warns(bp.EmptyLayerWarning, match=r"nothing of '2\.weight' is kept"):
        bp.masks(bnet, keep=0.5)
