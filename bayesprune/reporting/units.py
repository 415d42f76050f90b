"""How a report writes numbers: kilobytes, milliseconds, points, how many times smaller or slower."""

from dataclasses import dataclass

from bayesprune.sparse import Plan

__all__ = ["NATS", "PERCENT", "PLAIN", "POINTS", "Unit", "chance", "compared", "latency", "size", "speed", "threads"]


@dataclass(frozen=True)
class Unit:
    """How numbers of one kind are written.

    >>> Unit(100, ".2f", " points")(-0.012)
    '−1.20 points'
    """

    scale: float
    form: str
    name: str

    def bare(self, x: float) -> str:
        """The number alone."""
        return f"{self.scale * x:{self.form}}".replace("-", "−")

    def __call__(self, x: float) -> str:
        return self.bare(x) + self.name

    def directed(self, difference: float) -> str:
        """A difference, as higher or lower."""
        return f"{self(abs(difference))} {'higher' if difference > 0 else 'lower'}" if difference else "the same"


POINTS = Unit(100, ".2f", " points")
PERCENT = Unit(100, ".2f", "%")
NATS = Unit(1, ".4f", " nats")
PLAIN = Unit(1, ".4g", "")


def size(nbytes: int | None) -> str:
    """Kilobytes, of 1,000 bytes, to three figures; nothing where there is no size.

    >>> size(205_480), size(2_003), size(25_557_032)
    ('205 kB', '2.00 kB', '25,557 kB')
    """
    return "" if nbytes is None else f"{_three(nbytes / 1e3)} kB"


def latency(seconds: float | None) -> str:
    """Milliseconds, to three figures; nothing where there is no time.

    >>> latency(139e-6), latency(0.070009)
    ('0.139 ms', '70.0 ms')
    """
    return "" if seconds is None else f"{_three(seconds * 1e3)} ms"


def compared(ratio: float, above: str, below: str) -> str:
    """A ratio of two figures, as so many times more or less.

    >>> compared(16.34, "smaller", "larger"), compared(1 / 1720, "faster", "slower")
    ('16.3× smaller', '1,720× slower')
    """
    return f"{_three(max(ratio, 1 / ratio))}× {above if ratio >= 1 else below}"


def speed(ratio: float | None) -> str:
    """How many times faster or slower than dense; nothing where it was not timed, or is the dense net itself."""
    return "" if ratio is None or ratio == 1 else compared(ratio, "faster", "slower")


def chance(p: float) -> str:
    """A p-value, as far as it says something.

    >>> chance(0.0312), chance(1e-30)
    ('p = 0.031', 'p < 0.0001')
    """
    return f"p = {p:.2g}" if p >= 1e-4 else "p < 0.0001"


def threads(plan: Plan) -> str:
    """On how many threads a plan was timed."""
    return f"{plan.threads} thread{'s' * (plan.threads != 1)}"


def _three(x: float) -> str:
    return f"{x:,.0f}" if x >= 99.95 or not x else f"{x:#.3g}"
