"""One file format: safetensors with a JSON manifest, or a compressed file, written whole and read with care."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
