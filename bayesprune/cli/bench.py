"""The ``bayesprune bench`` command."""

from pathlib import Path
from typing import Annotated, Any

import typer

from bayesprune import runs
from bayesprune.cli.completion import NETS, among
from bayesprune.cli.options import DEVICES, Json, Trust, fraction
from bayesprune.cli.output import tell
from bayesprune.sparse import bench as benchmark


def run(
    model: Annotated[
        Path | None, typer.Argument(help="A saved model, or the run that holds it, to time against its dense self.")
    ] = None,
    example: Annotated[
        str | None, typer.Option(help="With a model: the shape of its input, as 64x1x28x28; a run knows its own.")
    ] = None,
    net: Annotated[
        str | None,
        typer.Option(
            help="With a saved model of a class of its own: the net, as for fit; a run knows its own.",
            autocompletion=among(*NETS),
        ),
    ] = None,
    shape: Annotated[list[str], typer.Option(help="Outputs x inputs of a weight; may be given again.")] = [  # noqa: B006
        "768x768",
        "3072x768",
        "4096x4096",
    ],
    tokens: Annotated[list[int], typer.Option(min=1, help="Rows of x.")] = [256],  # noqa: B006
    sparsity: Annotated[
        list[float], typer.Option(parser=fraction, metavar="FRACTION", help="That is gone, as 0.9 or 90%.")
    ] = [0.9],  # noqa: B006
    block: Annotated[list[str], typer.Option(help="Outputs x inputs of a block; 1x1 is CSR.")] = ["16x16"],  # noqa: B006
    bits: Annotated[int | None, typer.Option(help="8 or 4 for integer weights.")] = None,
    dtype: Annotated[
        str,
        typer.Option(help="float32, bfloat16 or float16.", autocompletion=among("float32", "bfloat16", "float16")),
    ] = "float32",
    threads: Annotated[int, typer.Option(min=1, help="Threads of torch and of our kernel.")] = 1,
    device: Annotated[
        str,
        typer.Option(help="cpu, or cuda: for products; a saved model is timed on the CPU.", autocompletion=DEVICES),
    ] = "cpu",
    rivals: Annotated[bool, typer.Option(help="Time torch's sparse paths, scipy and ONNX Runtime too.")] = True,
    budget: Annotated[float, typer.Option(min=0.01, help="Seconds per setting.")] = 1.0,
    trust: Trust = False,
    json: Json = False,
) -> None:
    """Time sparse products against dense ones on this machine, in turns.

    Example: bayesprune bench --shape 4096x4096 --tokens 256 --sparsity 0.9 --block 16x1
    """
    if model is not None:
        if device != "cpu":
            raise ValueError(f"a saved model is timed on the CPU; --device {device} is for products, without a model")
        if model.is_dir():
            model, batch, net = _of_run(model, example, net, trust)
        else:
            batch = example
        if not model.exists():
            raise FileNotFoundError(f"there is no saved model {str(model)!r}; bayesprune export writes one")
        if batch is None:
            raise ValueError("say the shape of the model's input: --example 64x784")
        skeleton = None
        if net is not None:
            skeleton = runs.find_net(net)
        given = benchmark.sizes(batch, "--example") if isinstance(batch, str) else batch
        found = benchmark.of_model(model, given, threads, budget, rivals, skeleton)
    else:
        settings = benchmark.settings(shape, tokens, sparsity, block, bits, dtype, threads, device)
        found = benchmark.of_products(settings, rivals, budget)
    if json:
        print(found.json(), end="")
    else:
        tell(found)


def _of_run(path: Path, example: str | None, net: str | None, trust: bool) -> tuple[Path, Any, str]:
    """The model of a run, a batch of its data or the shape of one, and its net."""
    folder = runs.RunFolder(path, trust)
    not_run = ["rules", "prune", *(["net"] if net else ()), *(["data"] if example else ())]
    recipe = folder.check_run(not_run)
    if not folder.model_file.exists():
        raise FileNotFoundError(f"{folder} holds no model yet: {folder.command('export')}")
    batch: Any = example
    if example is None:
        batch = runs.inputs_of(runs.open_data(recipe if net is None else recipe.but(net=net)).part("test"))
    return folder.model_file, batch, net or recipe.net
