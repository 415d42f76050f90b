"""Turns: re-entrant, in the order of asking, lent and taken back, none held in a forked child."""

import os
import threading
from collections.abc import Callable

import pytest

from bayesprune._turns import Turns, in_turn


def started(*jobs: Callable[[], None]) -> list[threading.Thread]:
    threads = [threading.Thread(target=job, daemon=True) for job in jobs]
    for thread in threads:
        thread.start()
    return threads


def wait_until(true: Callable[[], bool]) -> None:
    for _ in range(10_000):
        if true():
            return
        threading.Event().wait(0.001)
    raise AssertionError("it never came")


def test_a_thread_takes_its_own_turn_again() -> None:
    turns = Turns()
    with turns.taken(), turns.taken(), turns.lent(), turns.taken():
        assert not turns.wanted
    with turns.taken():
        pass


def test_threads_come_in_the_order_in_which_they_asked() -> None:
    turns, came = Turns(), []

    def job(k: int) -> Callable[[], None]:
        def ask() -> None:
            with turns.taken():
                came.append(k)

        return ask

    threads = []
    with turns.taken():
        for k in range(5):
            threads += started(job(k))
            wait_until(lambda k=k: len(turns._asking) == k + 1)
        came.append(-1)
    for thread in threads:
        thread.join(10)
    assert came == [-1, 0, 1, 2, 3, 4]


def test_a_lent_turn_goes_to_one_who_asks_and_comes_back() -> None:
    turns, came = Turns(), []

    def other() -> None:
        with turns.taken():
            came.append("other")

    with turns.taken(), turns.taken():
        threads = started(other)
        wait_until(lambda: turns.wanted)
        assert came == []
        with turns.lent():
            pass
        assert came == ["other"] and not turns.wanted
        came.append("back")
        threads += started(other)
        wait_until(lambda: turns.wanted)
        assert came == ["other", "back"]
    for thread in threads:
        thread.join(10)
    assert came == ["other", "back", "other"]


def test_an_error_gives_the_turn_back() -> None:
    turns = Turns()
    with pytest.raises(KeyError), turns.taken():
        raise KeyError
    assert turns._owner is None


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_child_waits_for_no_thread_of_its_parent() -> None:
    turns, done = Turns(), threading.Event()

    def hold() -> None:
        with turns.taken():
            done.wait(10)

    threads = started(hold)
    wait_until(lambda: turns._owner is not None)
    child = os.fork()
    if not child:
        with turns.taken():
            os._exit(0)
    done.set()
    threads[0].join(10)
    assert os.waitpid(child, 0)[1] == 0


def test_a_function_in_turn_is_itself() -> None:
    @in_turn
    def double(x: int) -> int:
        """Twice."""
        return 2 * x

    assert double(3) == 6 and double.__doc__ == "Twice."
