"""Versions of libraries, and the hardware, that a result depends on."""

import platform
from importlib.metadata import PackageNotFoundError, version

__all__ = ["versions"]


def versions() -> dict[str, str]:
    """The versions that a result depends on."""
    found = {"python": platform.python_version(), "machine": platform.machine()}
    for package in ("bayesprune", "torch", "pyro-ppl", "numpy", "safetensors", "accelerate"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed"
    return found
