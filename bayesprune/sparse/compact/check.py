"""Check that the compacted net gives the masked net's results."""

from torch import nn

from bayesprune._copies import copied
from bayesprune.sparse.surgery.comparison import apart, inputs_like, results
from bayesprune.sparse.surgery.reference import widened

__all__ = ["difference"]

_AS_RUN = {"caches": False, "fast_paths": True}  # caches of fewer heads are smaller; else as users run the nets


def difference(dense: nn.Module, compact: nn.Module, example: object) -> float:
    """The largest difference of the nets' results, relative to the largest entry of the dense net's.

    On the example, on noise of its shape and on another number of inputs, as far as the dense net takes them, in
    float64 where the nets run in it. Infinite where shapes differ.

    Raises:
        Exception: whatever the smaller net's forward raises.
    """
    inputs = inputs_like(example)
    first: list[object] | None = None
    try:
        wide = copied(dense).double()
        first = results(wide, widened(example), **_AS_RUN)
        dense, compact, inputs = wide, copied(compact).double(), {what: widened(x) for what, x in inputs.items()}
    except Exception:  # a dtype that is written into a forward
        first = None
    worst = 0.0
    for what, given in inputs.items():
        try:
            known = first if what == "the example" else None
            expected = results(dense, given, **_AS_RUN) if known is None else known
        except Exception:  # it takes no other number of inputs, or no noise
            if what == "the example":
                raise
            continue
        worst = max(worst, apart(expected, results(compact, given, **_AS_RUN))[0])
    return worst
