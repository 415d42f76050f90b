"""``hf:FOLDER``: a dataset that Hugging Face's ``datasets`` saved to disk, its batches dicts as its nets take them."""

from typing import Any

import numpy as np
from torch import Tensor
from torch.utils.data import Dataset

from bayesprune._extras import needed_by
from bayesprune.runs.files.named import Named, parts

__all__ = ["OPTIONS", "read_hf"]

OPTIONS = ("target", "val", "test", "seed")
_LABELS = ("labels", "label")


@needed_by("data hf:")
def read_hf(named: Named) -> tuple[Any, Any, Any]:
    """Training, validation and test of a folder of ``dataset.save_to_disk(folder)``, with rows of tensors.

    A ``DatasetDict`` has its parts, ``train``, ``test`` and ``validation`` or none; a ``Dataset`` is split here. The
    target is the column ``target``, by default ``labels`` or ``label``, and called ``labels`` in each batch. Columns of
    text are left out.

    Raises:
        FileNotFoundError: there is no such folder.
        ValueError: it is no such dataset; it lacks a part or the target; rows that are not all of one length.
    """
    import datasets

    if not named.path.is_dir():
        raise FileNotFoundError(f"there is no folder {str(named.path)!r} (data {str(named)!r})")
    try:
        found = datasets.load_from_disk(str(named.path))
    except Exception as error:  # of many kinds
        first = str(error).strip().partition("\n")[0]
        raise named.wrong(f"is no dataset ({first}): write it with dataset.save_to_disk(folder)") from error
    if isinstance(found, datasets.DatasetDict):
        if not {"train", "test"} <= found.keys():
            raise named.wrong(f"has the parts {', '.join(found)}: expected train and test, and validation or none")
        split = [name for name in ("val", "test", "seed") if name in named.options]
        if split:
            raise named.wrong(f"{', '.join(split)}: it is split already, so there is nothing to say of that")
        made = [_tensors(named, found[part]) if part in found else None for part in ("train", "validation", "test")]
        return made[0], made[1], made[2]
    labels = np.asarray(found[_target(named, found)])
    rows = parts(named, len(found), labels if labels.ndim == 1 and labels.dtype.kind in "iu" else None)
    train, val, test = (_tensors(named, found.select(some)) for some in rows)
    return train, val, test


class _Rows(Dataset):
    """Rows as dicts of tensors."""

    def __init__(self, data: Any) -> None:
        self.data = data.with_format("torch")

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return self.data[index]


def _target(named: Named, data: Any) -> str:
    wanted = named.options.get("target")
    found = [name for name in ((wanted,) if wanted else _LABELS) if name in data.column_names]
    if not found:
        told = f"{wanted!r}" if wanted else "labels or label"
        raise named.wrong(f"has no column {told}; they are {', '.join(data.column_names)}: say target=…")
    return found[0]


def _tensors(named: Named, data: Any) -> _Rows:
    """Rows of tensors, the target under ``labels``; texts are left out."""
    target = _target(named, data)
    if target != "labels":
        data = data.rename_column(target, "labels")
    texts = [name for name, kind in data.features.items() if getattr(kind, "dtype", None) in ("string", "large_string")]
    if "labels" in texts:
        raise named.wrong(f"its column {target!r} holds texts: data.class_encode_column({target!r}) makes numbers")
    data = data.remove_columns(texts)
    if len(data.column_names) < 2:
        raise named.wrong("it holds texts alone: run its tokenizer over them before it is saved")
    for name in data.column_names:
        lengths = {np.shape(row) for row in data.with_format("numpy")[: min(len(data), 64)][name]}
        if len(lengths) > 1:
            raise named.wrong(f"its column {name!r} holds rows of different lengths: pad them (padding='max_length')")
    return _Rows(data)
