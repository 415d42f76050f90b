"""Packed nets on the Hugging Face hub: a file, a model card, and the report's figures."""

import json
from os import PathLike
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from torch import nn

from bayesprune._extras import needed_by
from bayesprune._files import replace
from bayesprune.sparse import load, save

if TYPE_CHECKING:
    from bayesprune.reporting.result import Report

__all__ = ["from_pretrained", "push_to_hub", "save_pretrained"]

_MODEL, _CARD, _FIGURES = "model.safetensors", "README.md", "report.json"
_PLAIN = "---\nlibrary_name: bayesprune\ntags:\n- pytorch\n- pruning\n- sparsity\n---\n\n# {name}\n"


def save_pretrained(
    sparse: nn.Module, folder: str | PathLike[str], *, report: "Report | None" = None, name: str | None = None
) -> Path:
    """Write a packed net, its model card and its report's figures into a folder, as :func:`push_to_hub` uploads them.

    Args:
        sparse: what :func:`bayesprune.export` returned, or any other net that :func:`bayesprune.save` takes.
        folder: made where it is not there; the three files in it are replaced.
        report: what :func:`bayesprune.report` found of this net; without it the card says what the file is alone.
        name: what the card calls it; the folder's own name by default.

    Raises:
        ValueError: a net that a file cannot hold.

    >>> with TemporaryDirectory() as folder:
    ...     _ = save_pretrained(nn.Sequential(nn.Linear(3, 2)), folder)
    ...     from_pretrained(folder)
    Sequential(
      (0): Linear(in_features=3, out_features=2, bias=True)
    )
    """
    into = Path(folder)
    into.mkdir(parents=True, exist_ok=True)
    called = name or into.resolve().name
    save(sparse, into / _MODEL)
    if report is None:
        card = _PLAIN.format(name=called)
    else:
        from bayesprune.reporting.card import model_card

        card = model_card(report, called, _MODEL)
        figures = json.dumps(report.to_dict(), indent=2)
        replace(into / _FIGURES, lambda fresh: fresh.write_text(figures, encoding="utf-8"))
    replace(into / _CARD, lambda fresh: fresh.write_text(card, encoding="utf-8"))
    return into


@needed_by("bayesprune.push_to_hub")
def push_to_hub(
    sparse: nn.Module,
    repo: str,
    *,
    report: "Report | None" = None,
    private: bool | None = None,
    token: str | None = None,
    message: str = "A net packed by bayesprune",
) -> str:
    """Upload a packed net, its model card and its report's figures to the Hugging Face hub.

    Args:
        sparse, report: as :func:`save_pretrained` takes them.
        repo: ``"user/name"``; made where it is not there.
        private: whether nobody else sees a repository that is made now; the user's own default where it is not said.
        token: of the user; by default the one that ``hf auth login`` left.
        message: of the commit.

    Returns:
        The address of the commit.

    Raises:
        ImportError: huggingface_hub is not installed.
        ValueError: a net that a file cannot hold.
        huggingface_hub.errors.HfHubHTTPError: the hub refuses.
    """
    from huggingface_hub import HfApi

    with TemporaryDirectory() as folder:
        save_pretrained(sparse, folder, report=report, name=repo)
        hub = HfApi(token=token, library_name="bayesprune")
        hub.create_repo(repo, private=private, exist_ok=True)
        return str(hub.upload_folder(repo_id=repo, folder_path=folder, commit_message=message))


def from_pretrained(
    repo: str | PathLike[str],
    *,
    net: nn.Module | None = None,
    revision: str | None = None,
    token: str | None = None,
) -> nn.Module:
    """The net of a folder or of a repository on the Hugging Face hub; no code of theirs is run.

    Args:
        repo: a folder that is there, or ``"user/name"``.
        net: the skeleton, where the file does not hold the net's class: see :func:`bayesprune.load`.
        revision: a branch, tag or commit of the repository.
        token: of the user, for private repositories; by default the one that ``hf auth login`` left.

    Raises:
        ImportError: huggingface_hub is not installed; a folder needs none.
        FileNotFoundError: the folder holds no saved net.
        bayesprune.FileError: the file is damaged or no net of ours.
        huggingface_hub.errors.HfHubHTTPError: there is no such repository, or it may not be read.
    """
    path = Path(repo)
    if path.is_dir():
        if not (path / _MODEL).is_file():
            raise FileNotFoundError(f"{path} holds no {_MODEL}: bp.save_pretrained(sparse, folder) writes one")
        return load(path / _MODEL, net=net)
    with needed_by("bayesprune.from_pretrained"):
        from huggingface_hub import hf_hub_download

        return load(hf_hub_download(str(repo), _MODEL, revision=revision, token=token), net=net)
