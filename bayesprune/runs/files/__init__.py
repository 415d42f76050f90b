"""Data of one's own by the name of a file or folder, with no code to write: a kind a file."""

from collections.abc import Callable, Mapping
from typing import Any

from bayesprune.runs.files import csv_file, hugging_face, image_folder, npz_file
from bayesprune.runs.files.named import Named, read_name

__all__ = ["KINDS", "is_file", "read"]

KINDS: Mapping[str, tuple[Callable[[Named], Any], tuple[str, ...]]] = {
    "csv": (csv_file.read_csv, csv_file.OPTIONS),
    "images": (image_folder.read_images, image_folder.OPTIONS),
    "npz": (npz_file.read_npz, npz_file.OPTIONS),
    "hf": (hugging_face.read_hf, hugging_face.OPTIONS),
}
"""What reads each kind, and its options."""


def is_file(text: str) -> bool:
    """Whether data are named as a file or folder of a kind.

    >>> is_file("csv:houses.csv,target=price"), is_file("digits"), is_file("my_module:data")
    (True, False, False)
    """
    return text.partition(":")[0].strip() in KINDS and ":" in text


def read(text: str) -> Any:
    """The data of ``KIND:PATH[,option=value…]``: splits, or training, validation and test.

    Raises:
        FileNotFoundError: there is no such file or folder.
        ValueError: an option or contents that cannot be.
    """
    named = read_name(text, {kind: options for kind, (_, options) in KINDS.items()})
    assert named is not None
    return KINDS[named.kind][0](named)
