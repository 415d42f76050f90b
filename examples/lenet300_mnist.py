"""LeNet-300-100 on MNIST, 50 times fewer weights: sparse variational dropout beside gradual magnitude pruning.

    python examples/lenet300_mnist.py                 # the record: 5 epochs dense, then 40 sparse
    python examples/lenet300_mnist.py --epochs 1      # a quick look

Learning rate, warm-up and schedule were chosen on the 5,000 validation images; the test images are read once, at the
end. Both methods start at the same trained net and see the same epochs; no fine-tuning afterwards. So does the dense
control, which shows what pruning cost.
"""

import argparse
import time

import torch
from torch.func import functional_call
from torch.utils.data import DataLoader, TensorDataset

import bayesprune as bp
from bayesprune.data import mnist
from bayesprune.evaluation.classification import error
from bayesprune.nets import lenet_300_100


def error_of(net: torch.nn.Module, means: dict[str, torch.Tensor], examples: TensorDataset) -> float:
    x, y = examples.tensors
    with torch.no_grad():
        return error(functional_call(net, means, (x,)).softmax(-1), y)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=40, help="epochs of each sparse fit")
    parser.add_argument("--pretrain", type=int, default=5, help="epochs of the dense net")
    parser.add_argument("--keep", type=float, default=1 / 50, help="fraction of the weights to keep")
    parser.add_argument("--lr", type=float, default=2e-3, help="learning rate of each sparse fit")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()

    splits = mnist()
    train = DataLoader(splits.train, batch_size=256, shuffle=True)
    torch.manual_seed(args.seed)
    net = lenet_300_100()

    def fit(rules: dict[str, bp.Method], epochs: int, lr: float, prune: bp.Callback | None) -> bp.BayesianNet:
        bnet = bp.BayesianNet(net, rules)
        model = bp.classify(bnet, size=len(splits.train))
        bp.fit(model, bnet.guide, train, epochs=epochs, lr=lr, prune=prune, seed=args.seed)
        return bnet

    fit({}, args.pretrain, 1e-3, None).write_into(net)
    print(f"dense net after {args.pretrain} epochs: validation error {error_of(net, {}, splits.val):.2%}")
    rows = []
    control = fit({}, args.epochs, args.lr, None).means()
    print(f"dense control, {args.epochs} epochs more: validation error {error_of(net, control, splits.val):.2%}")
    for name, method, saliency in (
        ("SparseVD, pruned by SNR while fitting", bp.SparseVD(), bp.snr),
        ("gradual magnitude", bp.Deterministic(), bp.magnitude),
    ):
        start = time.perf_counter()
        prune = bp.Cubic(keep=args.keep, saliency=saliency)
        bnet = fit({"fc*.weight": method}, args.epochs, args.lr, prune)
        seconds = time.perf_counter() - start
        masks = bp.masks(bnet, keep=args.keep, saliency=saliency)
        ratio = sum(m.numel() for m in masks.values()) / sum(int(m.sum()) for m in masks.values())
        rows.append((name, bnet.means(), ratio, seconds))
    test = error_of(net, control, splits.test)
    print(f"dense control: test error {test:.2%}")
    for name, means, ratio, seconds in rows:  # here the test set is read
        val, test = (error_of(net, means, part) for part in (splits.val, splits.test))
        print(f"{name:40} {ratio:.1f}x fewer weights, error {val:.2%} validation, {test:.2%} test, {seconds:.0f} s")


if __name__ == "__main__":
    main()
