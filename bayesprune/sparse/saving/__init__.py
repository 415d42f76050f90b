"""One file format: safetensors with a JSON manifest, or a compressed file, written whole and read with care."""

from bayesprune.sparse.saving.compressed import Compressed, compressed
from bayesprune.sparse.saving.file import FileError, load, nbytes, save

__all__ = ["Compressed", "FileError", "compressed", "load", "nbytes", "save"]
