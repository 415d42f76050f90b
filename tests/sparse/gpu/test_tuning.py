"""Which configurations are tried, which one is taken, and when nothing is measured."""

import itertools
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any
from unittest import mock

import pytest
import torch

from bayesprune.sparse.gpu import tuning
from bayesprune.sparse.gpu.tuning import MOST_FEW, Config, Problem, Replayed, candidates, choose, power, shared_memory
from bayesprune.sparse.timing import cache as plan_cache

GPU = torch.device("cuda", 0)
PROBLEM = Problem(torch.float16, torch.float16, True, 64, 16, 64, 512, 512, 163 * 1024, 108)


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if there were a GPU, of which nothing is captured."""
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    monkeypatch.delenv("BAYESPRUNE_TUNE", raising=False)
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: False)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "a GPU")


def not_run(config: Config) -> Callable[[], object]:
    def run() -> None:
        raise AssertionError(f"nothing is to be measured, got {config}")

    return run


def test_candidates_fit_and_suit_the_problem() -> None:
    kinds = [(torch.float16, torch.float16, True), (torch.float32, torch.float32, False), (torch.int8,) * 2 + (True,)]
    kinds[-1] = (torch.int8, torch.float32, True)
    sizes = itertools.product((16, 48, 128), (1, 3, 16, 64), kinds, (1, 64), (16, 1024), (1, 8, 16, 32, 512, 8192))
    for h, w, kind, rows, entries, tokens in sizes:
        for memory in (99 * 1024, 227 * 1024):  # of compute capability 8.6 and 9.0
            problem = Problem(*kind, h, w, rows, entries, tokens, memory, 108)
            found = candidates(problem)
            assert len(set(found)) == len(found) <= 10
            for config in found:
                assert shared_memory(config, problem) <= memory
                assert config.few == (config.tile < 16)
                assert not config.few or tokens <= MOST_FEW
                assert config.step == power(config.step) and (config.few or config.step >= 16)
                assert config.split == 1 or 2 * rows * -(-tokens // config.tile) <= problem.processors
                assert not config.turned or (tokens >= 32 and w % config.step)


def test_few_block_rows_are_split_and_many_are_not() -> None:
    few = PROBLEM._replace(rows=4, tokens=32, entries=4096)
    assert candidates(few)[0].split > 1
    assert {config.split > 1 for config in candidates(few._replace(rows=32))} == {False, True}
    assert {config.split for config in candidates(few._replace(rows=1024))} == {1}


def test_x_is_turned_where_it_cannot_be_read_by_vectors() -> None:
    wide, narrow = PROBLEM, PROBLEM._replace(w=1)
    for problem, turns in [(wide, [False]), (narrow, [True, False]), (wide._replace(aligned=False), [True, False])]:
        assert list(dict.fromkeys(config.turned for config in candidates(problem))) == turns
        assert not any(config.turned for config in candidates(problem._replace(tokens=16)))


def test_a_problem_is_rounded_up() -> None:
    problem = Problem.of((100, 16, 64), (torch.float16, torch.float16), True, 5, 700, torch.device("cpu"))
    assert (problem.rows, problem.entries, problem.tokens) == (8, 512, 1024)
    assert Problem.of((0, 1, 16), (torch.int8, torch.float16), True, 0, 10**6, torch.device("cpu")).tokens == 8192


@pytest.mark.usefixtures("gpu")
@pytest.mark.parametrize("tokens", [64, 4096])
def test_the_fastest_is_taken(monkeypatch: pytest.MonkeyPatch, tokens: int) -> None:
    ran, about = [], []
    monkeypatch.setattr(tuning, "Replayed", lambda run: run)

    def fake(runners: Mapping[str, Callable[[], object]], **kwargs: Any) -> tuple[dict[str, float], str]:
        about.append(kwargs["about"])
        for run in runners.values():
            run()
        return {name: 1.0 + abs(i - 2) for i, name in enumerate(runners)}, ""

    monkeypatch.setattr(tuning, "timed", fake)
    problem = PROBLEM._replace(tokens=tokens)
    found = candidates(problem)
    assert choose(problem, GPU, lambda config: partial(ran.append, config)) == (found[2], True)
    assert ran == found
    assert set(problem) <= set(about[0])


def test_short_calls_are_captured_once_and_replayed(monkeypatch: pytest.MonkeyPatch) -> None:
    graph = mock.MagicMock()
    monkeypatch.setattr(torch.cuda, "CUDAGraph", lambda: graph)
    capture = mock.MagicMock()
    monkeypatch.setattr(torch.cuda, "graph", capture)
    run = mock.Mock()
    replayed = Replayed(run)
    assert not run.called
    replayed()
    replayed()
    assert run.call_count == 1 + 20  # once to compile, then under capture
    assert capture.call_count == 1 and capture.call_args.args == (graph,)
    assert graph.replay.call_count == 2


@pytest.mark.usefixtures("gpu")
def test_what_was_measured_is_kept_on_disk(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    races = []

    def fake(runners: Mapping[str, Callable[[], object]], **kwargs: Any) -> dict[str, float]:
        races.append(list(runners))
        return {name: 2.0 - (i == 1) for i, name in enumerate(runners)}

    monkeypatch.setenv("BAYESPRUNE_CACHE", str(tmp_path))
    monkeypatch.setattr(plan_cache, "time_interleaved", fake)
    first = choose(PROBLEM, GPU, not_run)
    assert first == (candidates(PROBLEM)[1], True)
    assert choose(PROBLEM, GPU, not_run) == first
    assert len(races) == 1
    choose(PROBLEM._replace(tokens=64), GPU, not_run)
    assert len(races) == 2


@pytest.mark.usefixtures("gpu")
def test_nothing_is_measured_during_a_capture(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: True)
    assert choose(PROBLEM, GPU, not_run) == (candidates(PROBLEM)[0], False)


@pytest.mark.usefixtures("gpu")
@pytest.mark.parametrize("why", ["BAYESPRUNE_TUNE=0", "the interpreter", "a CPU"])
def test_nothing_is_measured_for_settled_cases(monkeypatch: pytest.MonkeyPatch, why: str) -> None:
    if why == "BAYESPRUNE_TUNE=0":
        monkeypatch.setenv("BAYESPRUNE_TUNE", "0")
    elif why == "the interpreter":
        monkeypatch.setenv("TRITON_INTERPRET", "1")
    device = torch.device("cpu") if why == "a CPU" else GPU
    assert choose(PROBLEM, device, not_run) == (candidates(PROBLEM)[0], True)
