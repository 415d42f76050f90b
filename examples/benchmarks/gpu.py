"""Measure the GPU kernels: their tests, single weights over tokens, blocks and sparsities, whole nets, training.

    python examples/benchmarks/gpu.py --out results.json                 # all parts; again to go on where it stopped
    python examples/benchmarks/gpu.py --out results.json --part layers   # one part
    python examples/benchmarks/gpu.py --show results.json                # its tables, in Markdown
    python examples/benchmarks/gpu.py --bounds H200                      # what the roofline allows: arithmetic
    python examples/benchmarks/gpu.py --out rehearsal.json --rehearse    # tiny, on the CPU, no times

Parts, in turn: ``tests`` (those of GPUs), ``host`` (what a call costs the host), ``layers`` (the table), ``nets`` (ViT,
ResNet-18 end to end), ``training`` (the step of Sparse VD; needs Pyro). The file is written whole after every weight
or net. ``--budget`` seconds are shared out among the parts; rounds are cut first, from 30 to 7, then cells are left for
the next run. Weights lose blocks uniformly at random; a ratio is that of a round of A B A B, told in quartiles.
"""

import argparse
import os
import sys
import time
from pathlib import Path

from on_gpu.bounds import KNOWN, Peaks
from on_gpu.results import PARTS, RefusedError, Results, check_file, read

_SHARES = {"tests": 4.0, "host": 0.5, "layers": 9.0, "nets": 5.0, "training": 1.5}


def _parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="the results file; one that is there is added to")
    parser.add_argument("--part", action="append", choices=PARTS, help="only this part; may be given again")
    parser.add_argument("--budget", type=float, default=540.0, help="seconds in all")
    parser.add_argument(
        "--rehearse", action="store_true", help="tiny shapes in Triton's interpreter on the CPU, no times"
    )
    parser.add_argument("--show", type=Path, metavar="FILE", help="print the tables of a results file")
    parser.add_argument("--bounds", choices=list(KNOWN), help="print the roofline's bounds for a device")
    args = parser.parse_args()
    if sum(given is not None for given in (args.out, args.show, args.bounds)) != 1:
        parser.error("give one of --out, --show and --bounds")
    if not args.budget > 0:
        parser.error(f"--budget is a number of seconds > 0, got {args.budget}")
    return args


def _refuse_where_it_cannot_run(rehearse: bool) -> None:
    import torch

    from bayesprune.sparse.gpu.devices import obstacle, require_gpu

    if rehearse:
        if (why := obstacle(torch.device("cpu"))) is not None:
            raise RefusedError(why)
        return
    try:
        require_gpu()
    except ValueError as error:
        raise RefusedError(f"{error}; --rehearse runs the same on the CPU, without times") from error


def _measure(args: argparse.Namespace) -> Results:
    started = time.monotonic()
    check_file(args.out, args.rehearse)
    if args.rehearse:
        os.environ["TRITON_INTERPRET"] = "1"  # before Triton is imported
    _refuse_where_it_cannot_run(args.rehearse)
    import torch
    from on_gpu import host, layers, machine, nets, suite, training
    from on_gpu.clock import Clock, Rehearsal

    device = torch.device("cpu" if args.rehearse else "cuda")
    results = Results(args.out, machine.identity(device), machine.this_run(), args.rehearse)
    torch.manual_seed(0)
    clock = Rehearsal(device) if args.rehearse else Clock(device)
    if results.data["peaks"] is None and not args.rehearse:
        results.data["peaks"] = machine.measured_peaks(clock)
        results.save()
    held = results.data["peaks"]
    peaks = Peaks(held["flops"], held["memory"], held["l2"]) if held else None
    todo = [part for part in PARTS if part in (args.part or PARTS)]
    while todo:
        shares = sum(_SHARES[part] for part in todo)
        part = todo.pop(0)
        now = time.monotonic()
        until = now + max(0.0, started + args.budget - now) * _SHARES[part] / shares
        print(f"{part}: up to {until - now:.0f} s", file=sys.stderr, flush=True)
        if part == "tests":
            suite.run(results, until)
        elif part == "host":
            host.run(results, clock, until)
        elif part == "layers":
            layers.run(results, clock, peaks, until)
        elif part == "nets":
            nets.run(results, clock, until)
        else:
            training.run(results, clock, until)
        results.save()
    return results


def main() -> None:
    from on_gpu.show import bound_tables, print_tables, tables

    args = _parsed()
    try:
        if args.bounds:
            print(bound_tables(args.bounds))
        elif args.show:
            print(tables(read(args.show)))
        else:
            print_tables(_measure(args).data)
    except RefusedError as error:
        print(f"gpu.py: {error}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
