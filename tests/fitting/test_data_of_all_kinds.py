"""Loaders and targets as people have them: streams, several targets, sparse embeddings, complex parameters."""

import warnings
from collections.abc import Callable, Iterator
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import BatchSampler, DataLoader, IterableDataset, SubsetRandomSampler, TensorDataset

import bayesprune as bp
from bayesprune.fitting.batches import count_batches, count_examples

X, Y = torch.randn(48, 8, generator=torch.Generator().manual_seed(0)), torch.arange(48) % 3


def fit(bnet: bp.BayesianNet, loader: Any, size: int = 48, **kwargs: Any) -> bp.History:
    return bp.fit(
        bp.classify(bnet, size), bnet.guide, loader, **{"epochs": 2, "lr": 0.01, "seed": 0, "progress": False, **kwargs}
    )


def linear() -> bp.BayesianNet:
    torch.manual_seed(0)
    return bp.BayesianNet(nn.Sequential(nn.Linear(8, 3)), {"*.weight": bp.SparseVD()})


class Stream(IterableDataset):
    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        return iter(zip(X, Y, strict=True))


class Told(Stream):
    def __len__(self) -> int:
        return 48


class Raises:
    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        return iter([(X, Y)])

    def __len__(self) -> int:
        raise TypeError("no length here")


STREAMS: dict[str, tuple[Callable[[], Any], int]] = {
    "a stream": (lambda: DataLoader(Stream(), batch_size=16), 3),
    "a stream, the last batch dropped": (lambda: DataLoader(Stream(), batch_size=20, drop_last=True), 2),
    "a stream that knows its length": (lambda: DataLoader(Told(), batch_size=20), 3),
    "a length that raises": (Raises, 1),
}


@pytest.mark.parametrize("kind", STREAMS)
def test_a_loader_without_a_length_is_counted(kind: str) -> None:
    make, count = STREAMS[kind]
    assert count_batches(make()) == count
    steps: list[int] = []

    class Count(bp.Callback):
        def on_step(self, run: bp.Run) -> None:
            steps.append(run.steps)

    fit(linear(), make(), callbacks=[Count()])
    assert steps == [2 * count] * (2 * count)


def test_an_empty_stream_is_an_error() -> None:
    class Nothing(IterableDataset):
        def __iter__(self) -> Iterator[Any]:
            return iter(())

    with pytest.raises(ValueError, match="no batches"):
        fit(linear(), DataLoader(Nothing()))


TARGETS: dict[str, tuple[Any, Any, int]] = {
    "a tensor": (X, Y, 48),
    "a number": (X, torch.tensor(1.0), 1),
    "a dict": (X, {"a": Y, "b": X}, 48),
    "a tuple": (X, (Y, X), 48),
    "nested": (X, {"boxes": (X[:7], Y[:7])}, 7),
    "a list of two, as default_collate makes it": (X, [Y, X], 48),
    "a list of dicts, an entry an example": (X[:2], [{"boxes": X[:7]}, {"boxes": X[:5]}], 2),
    "a list of words": ("ab", ["cat", "dog"], 2),
}


@pytest.mark.parametrize("kind", TARGETS)
def test_examples_are_counted_along_the_first_axis(kind: str) -> None:
    x, y, count = TARGETS[kind]
    assert count_examples(x, y) == count


@pytest.mark.parametrize("kind", ["dict", "tuple", "list"])
def test_the_nll_is_per_example_where_targets_are_several(kind: str) -> None:
    yb = X[:, 0]
    torch.manual_seed(0)
    bnet = bp.BayesianNet(nn.Sequential(nn.Linear(8, 4)), {"0.weight": bp.Gaussian(init_log_scale=-9.0)})

    def model(x: Tensor, y: Any = None) -> None:
        out = bnet(x)
        a, b = (y["a"], y["b"]) if isinstance(y, dict) else y
        with pyro.plate("data", 48, subsample_size=len(x)):
            pyro.sample("a", dist.Categorical(logits=out[:, :3]), obs=a)
            pyro.sample("b", dist.Normal(out[:, 3], 1.0), obs=b)

    wrap = {"dict": lambda a, b: {"a": a, "b": b}, "tuple": lambda a, b: (a, b), "list": lambda a, b: [a, b]}[kind]
    loader = [(X[i : i + 12], wrap(Y[i : i + 12], yb[i : i + 12])) for i in range(0, 48, 12)]
    history = bp.fit(model, bnet.guide, loader, epochs=1, lr=1e-9, seed=0, progress=False)
    out = bnet.net(X)
    normal = -torch.distributions.Normal(out[:, 3], 1.0).log_prob(yb).mean()
    assert history.nll[0] == pytest.approx((F.cross_entropy(out[:, :3], Y) + normal).item(), rel=1e-3)


class Words(nn.Module):
    def __init__(self, kind: str) -> None:
        super().__init__()
        make = nn.EmbeddingBag if kind == "bag" else nn.Embedding
        self.e, self.fc = make(10, 8, sparse=True), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        e = self.e(x)
        return self.fc(e if e.dim() == 2 else e.mean(1))


@pytest.mark.parametrize("rule", ["fc.weight", "*.weight", "e.weight"])
@pytest.mark.parametrize("method", [bp.SparseVD(), bp.Deterministic()])
@pytest.mark.parametrize("kind", ["bag", "embedding"])
def test_a_sparse_embedding_trains_as_a_dense_one(kind: str, method: bp.Method, rule: str) -> None:
    words = torch.randint(0, 10, (48, 5), generator=torch.Generator().manual_seed(1))
    fitted = []
    for sparse in (True, False):
        torch.manual_seed(0)
        net = Words(kind)
        net.e.sparse = sparse
        bnet = bp.BayesianNet(net, {rule: method})
        fit(bnet, [(words, Y)], epochs=4)
        fitted.append(bnet.means())
    assert not torch.equal(fitted[0]["e.weight"], net.e.weight)
    assert all(torch.allclose(fitted[0][name], fitted[1][name], atol=1e-6) for name in fitted[0])


class Spectral(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.f, self.fc = nn.Parameter(torch.randn(5, dtype=torch.cfloat)), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(torch.fft.irfft(torch.fft.rfft(x) * self.f, n=8))


def test_a_complex_parameter_trains_and_resumes(tmp_path: Any) -> None:
    def made() -> bp.BayesianNet:
        torch.manual_seed(0)
        return bp.BayesianNet(Spectral(), {"fc.weight": bp.SparseVD()})

    class Stop(bp.Callback):
        def on_step(self, run: bp.Run) -> None:
            if run.step == 2:
                raise KeyboardInterrupt

    bnet, whole = made(), made()
    fit(bnet, [(X, Y)], epochs=3, checkpoint=tmp_path / "run", callbacks=[Stop()])
    resumed = made()
    fit(resumed, [(X, Y)], epochs=3, checkpoint=tmp_path / "run")
    fit(whole, [(X, Y)], epochs=3)
    assert not torch.equal(whole.means()["f"], whole.net.f)
    assert all(torch.equal(a, b) for a, b in zip(resumed.parameters(), whole.parameters(), strict=True))


def test_the_default_optimiser_is_fused_where_every_parameter_takes_it() -> None:
    fused = []

    class Look(bp.Callback):
        def on_start(self, run: bp.Run) -> None:
            fused.append(run.optimizer.defaults["fused"])

    fit(linear(), [(X, Y)], callbacks=[Look()])
    fit(bp.BayesianNet(Spectral(), {"fc.weight": bp.SparseVD()}), [(X, Y)], callbacks=[Look()])
    assert fused == [True, False]


OTHER: dict[str, tuple[Callable[[], Any], int, str]] = {
    "smaller": (lambda: DataLoader(TensorDataset(X, Y), batch_size=16), 16, "count 3 times as much"),
    "larger": (lambda: DataLoader(TensorDataset(X, Y), batch_size=16), 96, "count 0.5 times as much"),
    "how many batches there are": (lambda: DataLoader(TensorDataset(X, Y), batch_size=4), 12, "how many batches"),
    "how many are in a list": (lambda: list(zip(X.split(4), Y.split(4), strict=True)), 12, "how many batches"),
    "of batches from a sampler": (
        lambda: DataLoader(TensorDataset(X, Y), sampler=BatchSampler(range(48), 4, False), batch_size=None),
        12,
        "how many batches",
    ),
}


@pytest.mark.parametrize("kind", OTHER)
def test_a_size_that_is_not_the_datas_is_an_error_with_both_numbers(kind: str) -> None:
    make, size, words = OTHER[kind]
    with pytest.raises(ValueError, match=f"has 48 examples and the model was given size={size}.*{words}.*size=48, or"):
        fit(linear(), make(), size=size)


SIZES: dict[str, tuple[Callable[[], Any], int]] = {
    "the data's": (lambda: DataLoader(TensorDataset(X, Y), batch_size=16), 48),
    "of all, where some are drawn": (
        lambda: DataLoader(TensorDataset(X, Y), batch_size=8, sampler=SubsetRandomSampler(range(16))),
        48,
    ),
    "of a part, in a list": (lambda: [(X, Y)], 100),
    "of a part": (lambda: DataLoader(TensorDataset(X, Y), batch_size=8, sampler=SubsetRandomSampler(range(16))), 16),
    "batches given again": (lambda: [(X, Y)] * 3, 48),
    "a stream": (lambda: DataLoader(Told(), batch_size=16), 16),
}


@pytest.mark.parametrize("kind", SIZES)
def test_a_size_that_can_be_meant_is_no_warning(kind: str) -> None:
    make, size = SIZES[kind]
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        fit(linear(), make(), size=size)


# --- tensors of odd kinds ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "dtype",
    [torch.uint8, torch.uint16, torch.uint32, torch.uint64, torch.int8, torch.int16, torch.int32],
    ids=lambda dtype: str(dtype).removeprefix("torch."),
)
def test_labels_of_every_width_are_the_same_labels(dtype: torch.dtype) -> None:
    fitted = [linear(), linear()]
    for bnet, y in zip(fitted, (Y, Y.to(dtype)), strict=True):
        fit(bnet, [(X, y)])
    assert torch.equal(fitted[0].means()["0.weight"], fitted[1].means()["0.weight"])
    curves = [bp.sweep(bnet, [(X, y)], keep=[0.5]) for bnet, y in zip(fitted, (Y, Y.to(dtype)), strict=True)]
    assert curves[0].points[-1].score == curves[1].points[-1].score


def test_data_made_in_inference_mode_are_learned_from() -> None:
    with torch.inference_mode():
        x, y = X.clone(), Y.clone()
    fitted = [linear(), linear()]
    for bnet, data in zip(fitted, ([(X, Y)], [(x, y)]), strict=True):
        fit(bnet, data)
    assert torch.equal(fitted[0].means()["0.weight"], fitted[1].means()["0.weight"])


class Scaled(nn.Module):
    """A net with a second input that is one number, and a weight without entries."""

    def __init__(self) -> None:
        super().__init__()
        self.fc, self.none = nn.Linear(8, 3), nn.Linear(0, 3, bias=False)

    def forward(self, x: Tensor, scale: Tensor | None = None) -> Tensor:
        return self.fc(x if scale is None else x * scale) + self.none(x[:, :0])


def test_an_input_that_is_one_number_and_a_weight_without_entries() -> None:
    torch.manual_seed(0)
    bnet = bp.BayesianNet(Scaled(), {"*.weight": bp.SparseVD()})
    fit(bnet, [(X, torch.tensor(2.0), Y)])
    assert len(bp.predict(bnet, [(X, torch.tensor(2.0), Y)], draws=2).mean) == 48
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        report = bp.report(bnet, bp.masks(bnet, keep=0.5), [(X, Y)], draws=2)
    assert {row.name: row.kept for row in report.weights}["none.weight"] == 0


def squeezed() -> nn.Module:
    class Squeezed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(8, 1)

        def forward(self, x: Tensor) -> Tensor:
            return self.fc(x).squeeze()

    return Squeezed()


def in_inference_mode() -> nn.Module:
    with torch.inference_mode():
        return nn.Sequential(nn.Linear(8, 3))


ODD: dict[str, tuple[Callable[[], Any], str]] = {
    "NumPy's inputs": (lambda: fit(linear(), [(X.numpy(), Y)]), "holds a NumPy array of shape"),
    "NumPy's labels": (lambda: fit(linear(), [(X, Y.numpy())]), "labels must be a tensor, got ndarray"),
    "an empty input": (lambda: fit(linear(), [(X[:0], Y[:0])]), "batch 0 is empty"),
    "parameters of inference mode": (
        lambda: bp.BayesianNet(in_inference_mode(), {"*.weight": bp.SparseVD()}),
        "'0.weight' was made in inference mode",
    ),
    "squeeze() and a batch of one": (
        lambda: fit(bp.BayesianNet(squeezed(), {"fc.weight": bp.SparseVD()}), [(X[:1], Y[:1])]),
        r"squeeze\(-1\)",
    ),
    "a lazy layer": (
        lambda: bp.BayesianNet(nn.Sequential(nn.LazyLinear(3)), {"*.weight": bp.SparseVD()}),
        "run the net once on a batch",
    ),
}


@pytest.mark.parametrize("what", ODD)
def test_what_cannot_be_learned_from_is_one_sentence(what: str) -> None:
    do, words = ODD[what]
    with pytest.raises((ValueError, TypeError), match=words):
        do()
