"""Fifteen image corruptions at five severities, for tests under distribution shift.

Each is a function ``(images, severity, seed=0) -> images`` of floating-point images (n, channels, height, width) in
[0, 1]: 28×28 grey and 32×32 colour are what they were made for. Shape, dtype and device stay. What is random is fixed
by ``seed`` alone, whatever the device, and severities of one seed share it, so that only the strength differs.

After Hendrycks & Dietterich 2019, *Benchmarking Neural Network Robustness to Common Corruptions and Perturbations*,
arXiv:1903.12261 (ImageNet-C), and Mu & Gilmer 2019, *MNIST-C: A Robustness Benchmark for Computer Vision*,
arXiv:1906.02337. Noise, brightness and contrast have their levels; those of JPEG, of blurs and of what moves or covers
pixels are ours, lengths in pixels of an image 32 wide (other sizes in proportion).

>>> images = torch.rand(2, 1, 28, 28)
>>> [f(images, severity=5).shape == images.shape for f in CORRUPTIONS].count(True)
15
"""

import math
from collections.abc import Callable
from functools import wraps
from io import BytesIO
from typing import Protocol, runtime_checkable

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from scipy.ndimage import gaussian_filter
from torch import Generator, Tensor

__all__ = [
    "CORRUPTIONS",
    "Corruption",
    "brightness",
    "contrast",
    "defocus_blur",
    "elastic",
    "gaussian_noise",
    "impulse_noise",
    "jpeg",
    "motion_blur",
    "occlusion",
    "rotate",
    "scale",
    "shear",
    "shot_noise",
    "stripe",
    "translate",
]


@runtime_checkable
class Corruption(Protocol):
    """What a corruption is: see the module's docstring."""

    __name__: str

    def __call__(self, images: Tensor, severity: int, seed: int = 0) -> Tensor: ...


def _corruption(*levels: float) -> Callable[[Callable[[Tensor, float, Generator], Tensor]], Corruption]:
    """Make a corruption of a function of float32 images, a level and what is random."""

    def wrap(corrupt: Callable[[Tensor, float, Generator], Tensor]) -> Corruption:
        @wraps(corrupt)
        def corruption(images: Tensor, severity: int, seed: int = 0) -> Tensor:
            if severity not in range(1, len(levels) + 1):
                raise ValueError(f"severity is an integer from 1 to {len(levels)}, got {severity!r}")
            if images.dim() != 4 or not images.is_floating_point():
                raise ValueError(
                    "expected floating-point images (n, channels, height, width) in [0, 1], got "
                    f"{images.dtype} of shape {tuple(images.shape)}"
                )
            if not images.numel():
                return images.clone()
            if not bool((images.amin() >= 0) & (images.amax() <= 1)):
                raise ValueError(
                    f"expected images in [0, 1], got values from {float(images.amin()):g} to {float(images.amax()):g}: "
                    "corrupt them before they are normalised"
                )
            generator = Generator().manual_seed(seed)
            return corrupt(images.float(), levels[severity - 1], generator).clamp(0, 1).to(images.dtype)

        return corruption  # type: ignore[return-value]  # a function has its name

    return wrap


@_corruption(0.08, 0.12, 0.18, 0.26, 0.38)
def gaussian_noise(x: Tensor, sd: float, generator: Generator) -> Tensor:
    """Normal noise on every value; the level is its standard deviation."""
    return x + sd * torch.randn(x.shape, generator=generator).to(x.device)


@_corruption(60, 25, 12, 5, 3)
def shot_noise(x: Tensor, photons: float, generator: Generator) -> Tensor:
    """Poisson noise; the level is how many photons make white."""
    return (torch.poisson(x.cpu() * photons, generator=generator) / photons).to(x.device)


@_corruption(0.03, 0.06, 0.09, 0.17, 0.27)
def impulse_noise(x: Tensor, fraction: float, generator: Generator) -> Tensor:
    """Salt and pepper: a fraction of the values, the level, is black or white."""
    hit = torch.rand(x.shape, generator=generator).to(x.device) < fraction
    return torch.where(hit, torch.rand(x.shape, generator=generator).round().to(x.device), x)


@_corruption(1.0, 1.5, 2.0, 3.0, 4.0)
def defocus_blur(x: Tensor, radius: float, generator: Generator) -> Tensor:
    """A lens out of focus: the mean over a disc; the level is its radius."""
    radius *= x.shape[-1] / 32
    reach = math.ceil(radius)
    along = torch.arange(-reach, reach + 1, device=x.device, dtype=x.dtype)
    disc = (radius + 0.5 - torch.hypot(*torch.meshgrid(along, along, indexing="ij"))).clamp(0, 1)  # a smooth edge
    kernel = (disc / disc.sum()).expand(x.shape[1], 1, -1, -1)
    return F.conv2d(F.pad(x, [reach] * 4, mode="replicate"), kernel, groups=x.shape[1])


@_corruption(3, 5, 7, 10, 14)
def motion_blur(x: Tensor, length: float, generator: Generator) -> Tensor:
    """A moving camera: the mean along a line of a random direction; the level is its length."""
    angle = math.pi * torch.rand(len(x), generator=generator)
    steps = torch.linspace(-length / 32, length / 32, 2 * math.ceil(length) + 1)  # the image is 2 wide
    moved = [_warp(x, _affine(len(x), shift=(t * angle.cos(), t * angle.sin()))) for t in steps]
    return torch.stack(moved).mean(0)


@_corruption(0.1, 0.2, 0.3, 0.4, 0.5)
def brightness(x: Tensor, more: float, generator: Generator) -> Tensor:
    """Brighter by the level."""
    return x + more


@_corruption(0.4, 0.3, 0.2, 0.1, 0.05)
def contrast(x: Tensor, fraction: float, generator: Generator) -> Tensor:
    """Closer to the mean of each channel; the level is the fraction of the distance that is left."""
    mean = x.mean((-2, -1), keepdim=True)
    return mean + fraction * (x - mean)


@_corruption(10, 15, 20, 30, 45)
def rotate(x: Tensor, degrees: float, generator: Generator) -> Tensor:
    """Turned by the level in degrees, to a random side."""
    turn = _sides(len(x), generator) * math.radians(degrees)
    return _warp(x, _affine(len(x), [[turn.cos(), -turn.sin()], [turn.sin(), turn.cos()]]))


@_corruption(0.15, 0.3, 0.45, 0.6, 0.8)
def shear(x: Tensor, slant: float, generator: Generator) -> Tensor:
    """Slanted to a random side; the level is the shift of a row over its distance from the middle."""
    side, one = slant * _sides(len(x), generator), torch.ones(len(x))
    return _warp(x, _affine(len(x), [[one, side], [0 * one, one]]))


@_corruption(0.85, 0.75, 0.65, 0.55, 0.45)
def scale(x: Tensor, factor: float, generator: Generator) -> Tensor:
    """Smaller; the level is the factor on each side."""
    zoom = torch.full((len(x),), 1 / factor)
    return _warp(x, _affine(len(x), [[zoom, 0 * zoom], [0 * zoom, zoom]]))


@_corruption(1, 1.5, 2, 3, 4)
def translate(x: Tensor, pixels: float, generator: Generator) -> Tensor:
    """Shifted in a random direction; the level is the distance."""
    angle = 2 * math.pi * torch.rand(len(x), generator=generator)
    return _warp(x, _affine(len(x), shift=(pixels / 16 * angle.cos(), pixels / 16 * angle.sin())))


@_corruption(5, 8, 11, 14, 18)
def occlusion(x: Tensor, side: float, generator: Generator) -> Tensor:
    """A grey square in a random place; the level is its side."""
    return torch.where(_within(x, side, generator, -1) & _within(x, side, generator, -2), 0.5, x)


@_corruption(80, 50, 25, 15, 7)
def jpeg(x: Tensor, quality: float, generator: Generator) -> Tensor:
    """Stored as JPEG and read again; the level is the quality. Three channels are a colour image, others grey ones."""
    pixels = (x.cpu() * 255).round().to(torch.uint8).numpy()
    colour = x.shape[1] == 3
    images = pixels.transpose(0, 2, 3, 1) if colour else pixels.reshape(-1, *x.shape[2:])

    def stored(image: np.ndarray) -> np.ndarray:
        file = BytesIO()
        Image.fromarray(image).save(file, "JPEG", quality=int(quality))
        return np.asarray(Image.open(file))

    read = np.stack([stored(image) for image in images])
    again = torch.from_numpy(read.transpose(0, 3, 1, 2) if colour else read.reshape(pixels.shape))
    return again.to(x.device).float() / 255


@_corruption(1, 2, 3, 5, 8)
def stripe(x: Tensor, width: float, generator: Generator) -> Tensor:
    """The negative of the image in an upright stripe at a random place; the level is its width."""
    return torch.where(_within(x, width, generator, -1), 1 - x, x)


@_corruption(0.75, 1.25, 1.75, 2.5, 3.5)
def elastic(x: Tensor, pixels: float, generator: Generator) -> Tensor:
    """Each pixel moved by a smooth random field (Simard et al. 2003); the level is the root mean square of a shift."""
    n, _, *size = x.shape
    noise = torch.randn(n, 2, *size, generator=generator).numpy()
    field = torch.from_numpy(gaussian_filter(noise, sigma=(0, 0, size[0] / 8, size[1] / 8), mode="reflect"))
    field = field / field.square().mean((1, 2, 3), keepdim=True).sqrt().clamp_min(1e-12) * pixels / 16
    return _warp(x, _affine(n), field.permute(0, 2, 3, 1))


CORRUPTIONS: tuple[Corruption, ...] = (
    gaussian_noise,
    shot_noise,
    impulse_noise,
    defocus_blur,
    motion_blur,
    brightness,
    contrast,
    rotate,
    shear,
    scale,
    translate,
    occlusion,
    jpeg,
    stripe,
    elastic,
)


def _sides(n: int, generator: Generator) -> Tensor:
    """n times −1 or 1."""
    return 2 * torch.rand(n, generator=generator).round() - 1


def _within(x: Tensor, width: float, generator: Generator, axis: int) -> Tensor:
    """Whether an axis is within a window of each image, at a random place that keeps it inside the image."""
    size = x.shape[axis]
    wide = max(1, round(width * size / 32))
    start = (torch.rand(len(x), generator=generator) * (size - wide + 1)).floor()
    place = torch.arange(size) - start[:, None]
    inside = ((place >= 0) & (place < wide)).to(x.device)
    return inside[:, None, None, :] if axis == -1 else inside[:, None, :, None]


def _affine(n: int, matrix: list[list[Tensor]] | None = None, shift: tuple[Tensor, ...] | None = None) -> Tensor:
    """n maps (2, 3) from where a pixel is to where it is taken from, in units of half the image's side."""
    theta = torch.eye(2, 3).repeat(n, 1, 1)
    if matrix is not None:
        theta[:, :, :2] = torch.stack([torch.stack(row, -1) for row in matrix], 1)
    if shift is not None:
        theta[:, :, 2] = torch.stack(shift, -1)
    return theta


def _warp(x: Tensor, theta: Tensor, field: Tensor | float = 0.0) -> Tensor:
    """Images resampled where ``theta`` and ``field`` say; beyond an edge its pixels go on."""
    grid = F.affine_grid(theta, list(x.shape), align_corners=False) + field
    return F.grid_sample(x, grid.to(x.device), padding_mode="border", align_corners=False)
