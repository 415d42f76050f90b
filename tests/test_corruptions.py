"""Corruptions: stronger with severity, the same with the same seed, and each what its name says."""

import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from scipy import ndimage
from torch import Tensor

from bayesprune import corruptions
from bayesprune.corruptions import CORRUPTIONS, Corruption

NAMES = [f.__name__ for f in CORRUPTIONS]
SEVERITIES = range(1, 6)
FEW = pytest.mark.parametrize("corrupt", CORRUPTIONS, ids=NAMES)


def pictures(n: int = 24, channels: int = 1, side: int = 28) -> Tensor:
    """Smooth strokes on black, as digits are; the channels of a colour image differ."""
    noise = np.random.default_rng(0).standard_normal((n, channels, side, side))
    smooth = torch.from_numpy(ndimage.gaussian_filter(noise, sigma=(0, 0, 2, 2))).float()
    smooth = smooth / smooth.abs().amax((-2, -1), keepdim=True)
    window = torch.hann_window(side, periodic=False)
    return (4 * smooth.clamp_min(0) * window * window[:, None]).clamp(0, 1)


GREY, COLOUR = pictures(), pictures(channels=3, side=32)


def test_there_are_fifteen_and_each_is_exported() -> None:
    assert len(set(NAMES)) == 15
    assert all(getattr(corruptions, name) is f for name, f in zip(NAMES, CORRUPTIONS, strict=True))


@FEW
@pytest.mark.parametrize("images", [GREY, COLOUR], ids=["grey", "colour"])
def test_distance_grows_with_severity(corrupt: Corruption, images: Tensor) -> None:
    distance = [float((corrupt(images, s) - images).square().mean().sqrt()) for s in SEVERITIES]
    assert distance[0] > 0.005
    assert all(b > 1.02 * a for a, b in pairwise(distance)), distance


@FEW
@pytest.mark.parametrize("images", [GREY, COLOUR, COLOUR[:, :, :20], COLOUR[:0]], ids=["grey", "colour", "wide", "no"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16])
def test_shape_dtype_and_range_stay(corrupt: Corruption, images: Tensor, dtype: torch.dtype) -> None:
    before = images.to(dtype)
    kept = before.clone()
    found = corrupt(before, severity=5)
    assert found.shape == images.shape and found.dtype == dtype
    assert torch.equal(before, kept)
    if len(found):
        assert float(found.min()) >= 0 and float(found.max()) <= 1


@FEW
def test_a_seed_fixes_it_and_nothing_else_is_touched(corrupt: Corruption) -> None:
    state = torch.get_rng_state()
    first, again, other = corrupt(GREY, 3, seed=1), corrupt(GREY, 3, seed=1), corrupt(GREY, 3, seed=2)
    assert torch.equal(first, again)
    assert torch.equal(state, torch.get_rng_state())
    certain = corrupt.__name__ in ("defocus_blur", "brightness", "contrast", "scale", "jpeg")
    assert torch.equal(first, other) == certain


@FEW
def test_bad_input_is_refused(corrupt: Corruption) -> None:
    for severity in (0, 6, 2.5):
        with pytest.raises(ValueError, match="1 to 5"):
            corrupt(GREY, severity)
    with pytest.raises(ValueError, match=r"float.*uint8"):
        corrupt((GREY * 255).to(torch.uint8), 1)
    with pytest.raises(ValueError, match=r"\(28, 28\)"):
        corrupt(GREY[0, 0], 1)
    with pytest.raises(ValueError, match=r"\[0, 1\].*normalised"):
        corrupt(GREY - 0.5, 1)


def test_noise_has_the_moments_of_its_name() -> None:
    grey = torch.full((40, 1, 28, 28), 0.5)
    n = grey.numel()
    gaussian = corruptions.gaussian_noise(grey, 1)
    assert float(gaussian.mean()) == pytest.approx(0.5, abs=4 * 0.08 / math.sqrt(n))
    assert float(gaussian.std()) == pytest.approx(0.08, rel=0.02)
    shot = corruptions.shot_noise(grey, 1)
    assert float(shot.var()) == pytest.approx(0.5 / 60, rel=0.05)  # a Poisson's variance is its mean
    torch.testing.assert_close(shot * 60, (shot * 60).round(), atol=1e-4, rtol=0)
    impulse = corruptions.impulse_noise(grey, 5)
    assert float((impulse == 0).double().mean()) == pytest.approx(0.135, abs=4 * math.sqrt(0.135 / n))
    assert float((impulse == 1).double().mean()) == pytest.approx(0.135, abs=4 * math.sqrt(0.135 / n))


def test_brightness_and_contrast_are_arithmetic() -> None:
    torch.testing.assert_close(corruptions.brightness(COLOUR, 2), (COLOUR + 0.2).clamp(0, 1))
    mean = COLOUR.mean((-2, -1), keepdim=True)
    found = corruptions.contrast(COLOUR, 4)
    torch.testing.assert_close(found.mean((-2, -1), keepdim=True), mean)
    torch.testing.assert_close(found.std((-2, -1)), 0.1 * COLOUR.std((-2, -1)))


@pytest.mark.parametrize("severity", SEVERITIES)
def test_blurs_are_means(severity: int) -> None:
    """A flat image stays, the sum of a point stays, and the disc is what scipy's convolution gives."""
    flat = torch.full((2, 3, 32, 32), 0.3)
    point = torch.zeros(6, 1, 32, 32)
    point[:, :, 16, 16] = 1
    for blur in (corruptions.defocus_blur, corruptions.motion_blur):
        torch.testing.assert_close(blur(flat, severity), flat)
        torch.testing.assert_close(blur(point, severity).sum((-2, -1)), torch.ones(6, 1))
    kernel = corruptions.defocus_blur(point, severity)[0, 0]
    found = corruptions.defocus_blur(COLOUR, severity)[1, 2]
    away = np.roll(kernel.numpy(), (-1, -1), (0, 1))[:31, :31]  # centred on 15 of 31
    torch.testing.assert_close(found, torch.from_numpy(ndimage.convolve(COLOUR[1, 2].numpy(), away, mode="nearest")))


def test_motion_blurs_along_a_line() -> None:
    point = torch.zeros(20, 1, 32, 32)
    point[:, :, 15:17, 15:17] = 0.25
    for image in corruptions.motion_blur(point, 4)[:, 0]:
        y, x = np.nonzero(image.numpy() > 1e-6)
        weights = image.numpy()[y, x]
        long, thin = np.sort(np.linalg.eigvalsh(np.cov(x, y, aweights=weights)))[::-1]
        # evenly over 10 pixels: variance 10² / 12 and the point's own; across the line the point's own alone
        assert long == pytest.approx(100 / 12, rel=0.2) and thin < 1


def test_what_moves_pixels_moves_them_where_it_says() -> None:
    turned = corruptions.rotate(GREY, 2)
    for image, found in zip(GREY[:4, 0].numpy(), turned[:4, 0].numpy(), strict=True):
        both = [ndimage.rotate(image, a, reshape=False, order=1, mode="nearest") for a in (15, -15)]
        assert min(np.abs(found - b).max() for b in both) < 1e-3
    small = corruptions.scale(GREY, 5)
    outside = torch.ones(28, 28, dtype=torch.bool)
    outside[7:21, 7:21] = False
    assert float(small[:, :, outside].max()) < 0.05
    assert float(small.sum() / GREY.sum()) == pytest.approx(0.45**2, rel=0.05)

    def middle(x: Tensor) -> Tensor:
        along = torch.arange(x.shape[-1], dtype=torch.float32)
        mass = x.sum((-2, -1))
        return torch.stack([(x.sum(-2) * along).sum(-1), (x.sum(-1) * along).sum(-1)], -1) / mass[..., None]

    dot = torch.zeros(50, 1, 32, 32)
    dot[:, :, 14:18, 14:18] = 1
    shifted = (middle(corruptions.translate(dot, 4)) - middle(dot)).norm(dim=-1)
    torch.testing.assert_close(shifted, torch.full((50, 1), 3.0), atol=0.05, rtol=0)
    bar = torch.zeros(50, 1, 32, 32)
    bar[:, :, 4:6, 14:18] = 1
    slanted = (middle(corruptions.shear(bar, 2)) - middle(bar))[..., 0].abs()  # 11 rows above the middle
    torch.testing.assert_close(slanted, torch.full((50, 1), 11 * 0.3), atol=0.05, rtol=0)


def test_what_covers_pixels_covers_as_many_as_it_says() -> None:
    black = torch.zeros(30, 3, 32, 32)
    covered = corruptions.occlusion(black, 3)
    assert bool(((covered == 0.5).sum((-2, -1)) == 11 * 11).all())
    striped = corruptions.stripe(black, 3)
    assert bool((striped.sum((-2, -1)) == 3 * 32).all())
    assert bool((striped.amin(-2) == striped.amax(-2)).all())
    assert len({tuple(row.tolist()) for row in striped[:, 0, 0]}) > 5  # not all in one place


def test_the_elastic_field_is_as_strong_as_it_says() -> None:
    ramp = (torch.arange(32) / 31).expand(8, 1, 32, 32).contiguous()
    moved = (corruptions.elastic(ramp, 1) - ramp)[..., 6:-6] * 31  # across, in pixels; where no edge holds it
    assert float(moved.square().mean().sqrt()) == pytest.approx(0.75, rel=0.3)
