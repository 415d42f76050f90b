"""The ``bayesprune fit`` command."""

from itertools import count
from pathlib import Path
from typing import Annotated, Any

import typer

from bayesprune import reporting, runs
from bayesprune.cli.completion import DATA, NETS, among
from bayesprune.cli.completion import rules as complete_rules
from bayesprune.cli.options import DEVICES, Json, Trust
from bayesprune.cli.output import loading, say, show_json, tell


def run(
    recipe: Annotated[Path | None, typer.Argument(metavar="RECIPE", help="A recipe.toml to repeat.")] = None,
    net: Annotated[
        str | None,
        typer.Option(help="lenet_300_100, 'mlp(8, (50,), 1)', …, or my_module:make_net.", autocompletion=among(*NETS)),
    ] = None,
    data: Annotated[
        str | None,
        typer.Option(
            help="digits, mnist, cifar10, uci:yacht, csv:file.csv, images:folder, npz:file.npz, hf:folder, or "
            "my_module:make_data.",
            autocompletion=among(*DATA),
        ),
    ] = None,
    rules: Annotated[
        list[str] | None,
        typer.Option(
            "--rule",
            help="'fc*.weight=SparseVD(Block(4, 1))'; may be given again, the first match wins.",
            autocompletion=complete_rules,
        ),
    ] = None,
    prune: Annotated[
        str | None,
        typer.Option(
            help="Prune while fitting, by a schedule: 'Cubic(keep=0.05)'.", autocompletion=among("Cubic(keep=0.05)")
        ),
    ] = None,
    epochs: Annotated[int | None, typer.Option(help="Epochs of the fit; 20 by default.")] = None,
    batch: Annotated[int | None, typer.Option(help="Examples a step; 128 by default.")] = None,
    lr: Annotated[float | None, typer.Option(help="The fit's learning rate; 0.001 by default.")] = None,
    warmup: Annotated[float | None, typer.Option(help="Epochs over which the KL comes in; by default 40 %.")] = None,
    pretrain: Annotated[int | None, typer.Option(help="Epochs of ordinary training first; none by default.")] = None,
    pretrain_lr: Annotated[float | None, typer.Option(help="Their learning rate; 0.001 by default.")] = None,
    control: Annotated[
        bool | None,
        typer.Option("--control/--no-control", help="Train the dense net on as long, to compare with; it is."),
    ] = None,
    start: Annotated[Path | None, typer.Option(help="A trained net's state dict (.pt, .safetensors).")] = None,
    estimator: Annotated[
        str | None,
        typer.Option(
            help="local (the default), weight or flipout draws.", autocompletion=among("local", "weight", "flipout")
        ),
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Fixes initial weights, shuffling and draws; 0 by default.")] = None,
    threads: Annotated[int | None, typer.Option(help="Threads of torch; a repeat takes as many.")] = None,
    device: Annotated[
        str | None, typer.Option(help="cpu (the default), cuda, cuda:1, mps.", autocompletion=DEVICES)
    ] = None,
    precision: Annotated[
        str | None, typer.Option(help="no (the default) or bf16.", autocompletion=among("no", "bf16"))
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="The run folder; run by default, or run-2, … where another run is in it.")
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a run that is in the folder.")] = False,
    trust: Trust = False,
    json: Json = False,
) -> None:
    """Fit a sparse posterior into a run folder; a run that was killed goes on when the command is given again.

    Example: bayesprune fit --net 'mlp(64, (100,), 10)' --data digits --pretrain 5 --prune 'Cubic(keep=0.05)' --out run
    """
    options = dict(locals())
    with loading():
        prepare, train = runs.prepare, runs.train
    given = {n: v for n, v in options.items() if n in runs.Recipe.__dataclass_fields__ and v is not None}
    if start is not None:
        given |= {"start": str(start.resolve()), "start_sha256": None}
    if rules:
        given["rules"] = tuple(rules)
    if recipe is not None:
        given = {**vars(runs.Recipe.read(recipe)), **given}
    folder, there = _folder(out, trust, given, overwrite)
    wanted = runs.Recipe.of({"threads": runs.threads_here(), **given}) if there is None or overwrite else there
    if not trust:
        named = [name for name in ("net", "data", "rules", "prune") if options[name]]
        wanted.check_trusted(str(folder if there is wanted or recipe is None else recipe), named)
    if wanted is there:
        say(f"going on with {folder}: {folder.reached()}")
    _warn_of_versions(wanted, reporting.versions())
    runs.use_threads(wanted)
    prepared = prepare(wanted)
    if runs.is_file(wanted.data):
        said = f"classes {', '.join(prepared.data.classes)}".strip() if prepared.data.classifies else "regression"
        say(f"{wanted.data}: {prepared.data.size:,} rows to train on, {said}")
    with folder.locked():
        if folder.recipe() != there or (folder.finished and not overwrite):
            raise BlockingIOError(f"another bayesprune has written to {folder} meanwhile: name another folder")
        if overwrite:
            folder.clear()
        if there is None or overwrite:
            prepared.recipe.but(versions=reporting.versions()).write(folder.recipe_file)
        try:
            history = train(prepared, folder, say)
        except KeyboardInterrupt:
            say(f"stopped ({folder.reached()}): {folder.go_on()} goes on with it")
            raise
    last = history.epochs[-1]
    if json:
        show_json({"folder": str(folder.path), "seconds": history.seconds, **last.to_dict()})
        return
    tell(
        f"{folder} holds a posterior, fitted in {history.seconds:.0f} s: NLL {last.nll:.4f} nats per example, "
        f"KL {last.kl:,.0f} nats, {last.kept:.2%} of the weights kept"
    )
    if not prepared.recipe.pretrain and not prepared.recipe.start:
        say("the dense net was not trained, so a report has nothing to compare with: --pretrain 5, or --start net.pt")
    keep = getattr(prepared.recipe.schedule(), "keep", None)
    tell(f"next: {folder.command('masks', '' if keep is None else f'--keep {keep:g}')}")


class _AnotherRunError(FileExistsError):
    """A folder holds another run than the one that is asked for."""


def _folder(
    out: Path | None, trust: bool, given: dict[str, Any], overwrite: bool
) -> "tuple[runs.RunFolder, runs.Recipe | None]":
    """The folder of this run, and the recipe there that it goes on with.

    Where none is named it is the first of ``run``, ``run-2``, … that holds no other run.
    """
    if out is not None or overwrite:
        folder = runs.RunFolder(out or Path("run"), trust)
        return folder, _there(folder, given, overwrite)
    for number in count(1):
        folder = runs.RunFolder(Path("run" if number == 1 else f"run-{number}"), trust)
        try:
            there = _there(folder, given, overwrite)
        except _AnotherRunError:
            continue
        if number > 1 and there is None:
            say(f"run/ holds another run: this one goes to {folder}")
        return folder, there
    raise AssertionError  # numbers do not end


def _there(folder: "runs.RunFolder", given: dict[str, Any], overwrite: bool) -> "runs.Recipe | None":
    """The recipe of an unfinished run to go on with; raises where the folder is not for this run."""
    if folder.path.exists() and not folder.path.is_dir():
        raise NotADirectoryError(f"--out {folder.path} is a file: name a folder")
    if folder.holds_something_else():
        raise FileExistsError(f"--out {folder.path} holds files and no run: name another folder")
    if not folder.path.exists():
        return None
    with folder.locked():
        there = folder.recipe()
    if there is None or overwrite:
        return there
    noted = ("versions", "start_sha256")  # by the run itself
    other = there.differences({name: value for name, value in given.items() if name not in noted})
    if other:
        raise _AnotherRunError(
            f"{folder} holds another run ({'; '.join(other)}): name another folder with --out, or add --overwrite"
        )
    if folder.finished:
        with folder.locked():
            folder.finish()  # which a kill may have kept it from
        raise FileExistsError(
            f"{folder} holds this run, finished: {folder.command('masks')} goes on from it, --overwrite repeats it"
        )
    return there


def _warn_of_versions(recipe: "runs.Recipe", here: dict[str, str]) -> None:
    other = [f"{n} {v}, here {here.get(n)}" for n, v in recipe.versions.items() if here.get(n) != v]
    if other:
        say(f"the recipe was made with {'; '.join(other)}: the last bits may differ")
