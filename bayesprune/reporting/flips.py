"""Images whose answer pruning changed: what they are, and what was said of them before and after."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from bayesprune.evaluation.verification import Role, Verification
from bayesprune.fitting.batches import split
from bayesprune.network.bayesian_net import BayesianNet

__all__ = ["Flip", "flips"]

_LOST, _WON = 12, 6  # how many are shown, at most
_SMALLEST = 4  # pixels a side: less is no image


@dataclass(frozen=True, eq=False)
class Flip:
    """One image that is right before and wrong after pruning, or the other way round.

    Attributes:
        pixels: uint8, (1 or 3 channels, height, width).
        truth, before, after: its class, and what the dense net and the pruned one say.
        lost: whether it is the pruned net that errs.
    """

    pixels: Tensor
    truth: str
    before: str
    after: str
    lost: bool


def flips(bnet: BayesianNet, loader: Iterable[Any], seen: Verification, names: Sequence[str]) -> tuple[Flip, ...]:
    """The images on which one of both nets errs: those that pruning lost first, the surest mistakes ahead.

    None where inputs are not images (examples, 1 or 3 channels, height, width) with a label each.
    """
    before, after = seen.losses_of(seen.reference), seen.losses_of(Role.PRUNED)
    if before.answer is None or after.answer is None or after.group is None or after.wrong is None:
        return ()
    assert before.wrong is not None and before.confidence is not None and after.confidence is not None  # they go along
    lost, won = after.wrong & ~before.wrong, before.wrong & ~after.wrong
    wanted = [*_surest(lost, after.confidence, _LOST), *_surest(won, before.confidence, _WON)]
    images = _images(bnet, loader, wanted, len(after.answer))
    answers = (after.group, before.answer, after.answer)
    found = []
    for k in wanted:
        if k in images:
            truth, said_before, said_after = (names[int(of[k])] for of in answers)
            found.append(Flip(_pixels(images[k]), truth, said_before, said_after, bool(lost[k])))
    return tuple(found)


def _surest(which: Tensor, confidence: Tensor, most: int) -> list[int]:
    places = torch.nonzero(which).flatten()
    return places[confidence[places].argsort(descending=True, stable=True)][:most].tolist()


def _images(bnet: BayesianNet, loader: Iterable[Any], wanted: Sequence[int], examples: int) -> dict[int, Tensor]:
    """The wanted inputs by their place, where all inputs are images, one for each of so many labels."""
    found: dict[int, Tensor] = {}
    start = 0
    for batch in loader if wanted else ():
        x, _ = split(bnet, batch)
        if not isinstance(x, Tensor) or x.dim() != 4 or x.shape[1] not in (1, 3) or min(x.shape[2:]) < _SMALLEST:
            return {}
        found |= {k: x[k - start].detach().float().cpu() for k in wanted if start <= k < start + len(x)}
        start += len(x)
    return found if start == examples else {}


def _pixels(image: Tensor) -> Tensor:
    """Channels, height, width in whatever range, from its least value in black to its greatest in white."""
    low, high = image.min(), image.max()
    return ((image - low) / (high - low).clamp_min(1e-12) * 255).round().to(torch.uint8)
