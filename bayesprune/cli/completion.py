"""Values that a shell completes: written out, for a key press must not wait until torch is loaded."""

from collections.abc import Callable

__all__ = ["CORRUPTIONS", "DATA", "METHODS", "NETS", "SALIENCIES", "among", "rules"]

NETS = ("lenet_300_100", "lenet_5_caffe", "mlp", "resnet18", "vgg_like", "vit")
DATA = (
    *("digits", "mnist", "cifar10", "uci:concrete", "uci:energy", "uci:wine-quality-red", "uci:yacht"),
    *("csv:", "images:", "npz:", "hf:"),
)
METHODS = (
    *("ARD", "Deterministic", "Gaussian", "GroupVD", "HardConcrete", "Horseshoe", "Laplace", "NormalJeffreys"),
    *("SparseVD", "SpikeSlab", "StructuredDropout"),
)
SALIENCIES = ("snr", "magnitude", "lamp", "random")
CORRUPTIONS = (
    "gaussian_noise",
    "shot_noise",
    "impulse_noise",
    "defocus_blur",
    "motion_blur",
    "brightness",
    "contrast",
    "rotate",
    "shear",
    "scale",
    "translate",
    "occlusion",
    "jpeg",
    "stripe",
    "elastic",
)


def among(*values: str) -> Callable[[str], list[str]]:
    """What completes an option that takes one of ``values``.

    >>> among("cpu", "cuda")("cu")
    ['cuda']
    """
    return lambda incomplete: [value for value in values if value.startswith(incomplete)]


def rules(incomplete: str) -> list[str]:
    """What completes ``GLOB=METHOD()``: the method, once the glob is there.

    >>> rules("fc*.weight=Sp")
    ['fc*.weight=SparseVD()', 'fc*.weight=SpikeSlab()']
    """
    glob, equals, begun = incomplete.rpartition("=")
    return [f"{glob}={name}()" for name in METHODS if equals and name.startswith(begun)]
