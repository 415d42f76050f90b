"""LeNet-300-100 at 99 % and LeNet-5-Caffe at 99.5 % in a few kilobytes on disk, run from the file.

    python examples/compress_lenets.py --out fits                # fits what FOLDER/ does not hold yet, then compresses
    python examples/compress_lenets.py --out fits --test         # and reads the test images, once for each net
    python examples/compress_lenets.py --nets lenet300 --epochs 1 --out quick

Sparse VD, pruned by SNR while it is fitted; empty units are removed, the rest is packed, and bp.save(…, compress=True)
rounds each weight as finely as its posterior can tell. Everything was chosen on the 5,000 validation images.
"""

import argparse
import time
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import bayesprune as bp
from bayesprune.data import Splits, mnist
from bayesprune.evaluation.classification import error
from bayesprune.nets import lenet_5_caffe, lenet_300_100

Fit = dict[str, dict[str, Tensor]]

NETS = {"lenet300": (lenet_300_100, 0.01, 60), "lenet5": (lenet_5_caffe, 0.005, 30)}  # what to keep, epochs


def fitted(net: nn.Module, splits: Splits, keep: float, epochs: int) -> Fit:
    """Posterior means, variances and masks by weight: 5 epochs dense, then Sparse VD along a cubic; and a dense
    control, trained on for as many epochs."""
    train = DataLoader(splits.train, batch_size=256, shuffle=True)

    def fit(rules: dict[str, bp.Method], epochs: int, lr: float, prune: bp.Callback | None) -> bp.BayesianNet:
        bnet = bp.BayesianNet(net, rules)
        model = bp.classify(bnet, size=len(splits.train))
        bp.fit(model, bnet.guide, train, epochs=epochs, lr=lr, prune=prune, seed=0)
        return bnet

    fit({}, 5, 1e-3, None).write_into(net)
    bnet = fit({"*.weight": bp.SparseVD()}, epochs, 2e-3, bp.Cubic(keep=keep))
    control = fit({}, epochs, 2e-3, None).means()
    return {"mean": bnet.means(), "variance": bnet.variances(), "mask": bp.masks(bnet, keep=keep), "control": control}


def kept_in(path: Path, make: Callable[[], Fit]) -> Fit:
    """What ``make()`` returns, from the file where that is there."""
    if not path.exists():
        made = make()
        save_file({f"{part}/{name}": x.contiguous() for part, own in made.items() for name, x in own.items()}, path)
    parts: Fit = {"mean": {}, "variance": {}, "mask": {}, "control": {}}
    for key, x in load_file(path).items():
        part, _, name = key.partition("/")
        parts[part][name] = x
    return parts


def error_of(net: nn.Module, examples: TensorDataset) -> float:
    x, y = examples.tensors
    with torch.no_grad():
        return error(net(x).softmax(-1), y)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nets", nargs="+", choices=sorted(NETS), default=list(NETS))
    parser.add_argument("--epochs", type=int, help="epochs of each sparse fit; 60 and 30 by default")
    parser.add_argument("--out", type=Path, required=True, help="folder of the fits and of the compressed files")
    parser.add_argument("--levels", type=int, help="levels of each weight; what its posterior asks for by default")
    parser.add_argument("--test", action="store_true", help="read the test images")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    warnings.simplefilter("ignore", bp.BudgetWarning)  # the fit itself left no more than the budget

    splits = mnist()
    example, codebook = splits.val.tensors[0][:64], bp.Codebook(args.levels)
    for name in args.nets:
        make, keep, epochs = NETS[name]
        torch.manual_seed(0)
        net, start = make(), time.perf_counter()
        make_fit = partial(fitted, net, splits, keep, args.epochs or epochs)
        found = kept_in(args.out / f"{name}.safetensors", make_fit)
        print(f"{name}: fitted, or read, in {time.perf_counter() - start:.0f} s")

        small = bp.compact(net, found["mean"], found["mask"], example=example)
        packed = bp.export(small.net, {}, small.masks, example=example)
        variances = small.cut(found["variance"])
        path = args.out / f"{name}.bp"
        bp.save(packed, args.out / f"{name}_packed.safetensors")
        bp.save(packed, path, compress=codebook, variances=variances)
        loaded = bp.load(path)

        kept = sum(int(mask.sum()) for mask in found["mask"].values())
        weights = sum(mask.numel() for mask in found["mask"].values())
        raw = 4 * sum(p.numel() for p in net.parameters())
        plain, size = (args.out / f"{name}_packed.safetensors").stat().st_size, path.stat().st_size
        print(f"  {kept:,} of {weights:,} weights kept ({1 - kept / weights:.2%} gone)")
        print(f"  {raw:,} bytes dense, {plain:,} packed, {size:,} compressed: {raw / size:.0f} times smaller")
        file = bp.compressed(packed, codebook, variances=variances)
        shares = {"places": 0.0, "biases": 0.0, "values": 0.0}
        for tensor, nbytes in file.tensors.items():
            what = "places" if tensor.endswith("col") else "biases" if tensor.endswith("bias") else "values"
            shares[what] += nbytes
        print("  " + ", ".join(f"{n:.0f} {what}" for what, n in shares.items()) + f", {file.rest:.0f} manifest and sum")
        dense = make()
        dense.load_state_dict(found["control"])
        for what, examples in (("validation", splits.val), *((("test", splits.test),) if args.test else ())):
            before, after, control = (error_of(one, examples) for one in (packed, loaded, dense))
            print(
                f"  {what} error {before:.2%} before, {after:.2%} from the compressed file; dense control {control:.2%}"
            )


if __name__ == "__main__":
    main()
