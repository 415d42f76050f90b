"""One file format: safetensors with a JSON manifest, or a compressed file, written whole and read with care."""

from bayesprune._extras import door

__getattr__, __dir__, __all__ = door(__name__, __file__)
