"""The command line."""

import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

app = typer.Typer(help="Bayesian sparsification for PyTorch.", no_args_is_help=True, pretty_exceptions_enable=False)


@app.callback()
def _root() -> None:
    """Bayesian sparsification for PyTorch: fit a sparse posterior, look at it, export what is smaller and faster."""


@app.command()
def demo(
    data: Annotated[str, typer.Option(help="digits (bundled with scikit-learn) or mnist (downloaded).")] = "digits",
    out: Annotated[Path | None, typer.Option(help="Folder to write; a new numbered one by default.")] = None,
    epochs: Annotated[int | None, typer.Option(min=1, help="Epochs of the posterior and of its rival.")] = None,
    seed: Annotated[int, typer.Option(help="Fixes initial weights, shuffling and draws.")] = 0,
    keep: Annotated[float | None, typer.Option(help="Fraction of the weights to keep, in (0, 1].")] = None,
    device: Annotated[str, typer.Option(help="cpu, cuda, cuda:1, mps.")] = "cpu",
    force: Annotated[bool, typer.Option("--force", help="Write into a folder that is not empty.")] = False,
) -> None:
    """Train, fit a sparse posterior, prune by SNR, pack, verify and save, on real data.

    Example: bayesprune demo --data mnist --keep 0.02 --out run
    """
    errors = Console(stderr=True)
    with errors.status("loading"):
        from bayesprune.demo import TASKS, claim_folder, run_demo
        from bayesprune.fitting import check_device
        from bayesprune.masking import check_keep
    if data not in TASKS:
        raise ValueError(f"--data is one of {', '.join(TASKS)}; got {data!r}")
    if keep is not None:
        check_keep(keep)
    check_device(device)
    folder = claim_folder(out, force)
    found = run_demo(
        TASKS[data],
        folder,
        epochs=epochs,
        seed=seed,
        keep=keep,
        device=device,
        say=lambda s: errors.print(s, style="bold"),
    )
    Console(width=None if sys.stdout.isatty() else 140).print(found)
    print(f"wrote {folder}/: model.safetensors, report.json, snr.png")
    print(f"load it: python -c \"import bayesprune as bp; print(bp.load('{folder}/model.safetensors'))\"")


@app.command()
def bench(
    model: Annotated[Path | None, typer.Argument(help="A saved model, to time against its dense self.")] = None,
    example: Annotated[str | None, typer.Option(help="With a model: the shape of its input, as 64x1x28x28.")] = None,
    shape: Annotated[list[str], typer.Option(help="Outputs x inputs of a weight; may be given again.")] = [  # noqa: B006
        "768x768",
        "3072x768",
        "4096x4096",
    ],
    tokens: Annotated[list[int], typer.Option(min=1, help="Rows of x.")] = [256],  # noqa: B006
    sparsity: Annotated[list[float], typer.Option(min=0, help="Fraction that is gone, in [0, 1).")] = [0.9],  # noqa: B006
    block: Annotated[list[str], typer.Option(help="Outputs x inputs of a block; 1x1 is CSR.")] = ["16x16"],  # noqa: B006
    bits: Annotated[int | None, typer.Option(help="8 for integer weights.")] = None,
    dtype: Annotated[str, typer.Option(help="float32, bfloat16 or float16.")] = "float32",
    threads: Annotated[int, typer.Option(min=1, help="Threads of torch and of our kernel.")] = 1,
    rivals: Annotated[bool, typer.Option(help="Time torch's sparse paths, scipy and ONNX Runtime too.")] = True,
    budget: Annotated[float, typer.Option(min=0.01, help="Seconds per setting.")] = 1.0,
    json: Annotated[bool, typer.Option("--json", help="Print JSON in place of a table.")] = False,
) -> None:
    """Time sparse products against dense ones on this machine, in turns.

    Example: bayesprune bench --shape 4096x4096 --tokens 256 --sparsity 0.9 --block 16x1
    """
    from bayesprune.sparse import benchmark

    if model is not None:
        if example is None:
            raise ValueError("say the shape of the model's input: --example 64x784")
        found = benchmark.of_model(model, benchmark.sizes(example, "--example"), threads, budget, rivals)
    else:
        settings = benchmark.settings(shape, tokens, sparsity, block, bits, dtype, threads)
        found = benchmark.of_products(settings, rivals, budget)
    print(found.json() if json else found, end="" if json else "\n")


def main() -> None:
    """Run the command line: errors a person can mend are one line on stderr and exit code 2."""
    try:
        app()
    except (ValueError, OSError, FloatingPointError) as error:
        Console(stderr=True, soft_wrap=True).print(f"[bold red]bayesprune:[/] {_escaped(error)}", highlight=False)
        raise SystemExit(2) from None
    except KeyboardInterrupt:
        print("bayesprune: interrupted", file=sys.stderr)
        raise SystemExit(130) from None


def _escaped(error: Exception) -> str:
    from rich.markup import escape

    return escape(str(error) or type(error).__name__)
