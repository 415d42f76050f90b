"""Does a sparse posterior know what it never saw? MNIST digits against CIFAR-10 photographs, by epistemic entropy.

    python examples/ood_mnist_cifar.py                 # the figures in docs/pictures.md

LeNet-300-100 is trained for one epoch on MNIST's training images, then a posterior is fitted for five while 90 % of
the weights are pruned. Photographs are CIFAR-10's test images, grey, cut to their middle 28×28 pixels.
"""

import argparse

import torch
from torch.utils.data import DataLoader, TensorDataset

import bayesprune as bp
from bayesprune.data import cifar10, mnist
from bayesprune.evaluation.classification import entropy, error
from bayesprune.evaluation.ranking import auroc
from bayesprune.nets import lenet_300_100

LUMA = torch.tensor([0.299, 0.587, 0.114])[:, None, None]  # ITU-R BT.601


def fitted(epochs: int, keep: float, seed: int) -> bp.BayesianNet:
    """LeNet-300-100 on MNIST, pruned by SNR while its posterior is fitted."""
    splits = mnist()
    train = DataLoader(splits.train, batch_size=256, shuffle=True)
    size = len(splits.train)
    torch.manual_seed(seed)
    net = lenet_300_100()
    dense = bp.BayesianNet(net, {})
    bp.fit(bp.classify(dense, size), dense.guide, train, epochs=1, seed=seed)
    dense.write_into(net)
    bnet = bp.BayesianNet(net, {"fc*.weight": bp.SparseVD()})
    prune = bp.Cubic(keep=keep)
    bp.fit(bp.classify(bnet, size), bnet.guide, train, epochs=epochs, lr=2e-3, prune=prune, seed=seed)
    return bnet


def digits_and_photographs(n: int) -> tuple[DataLoader, DataLoader]:
    """The first ``n`` test images of MNIST, and as many of CIFAR-10 as if they were digits."""
    x, y = mnist().test.tensors
    photographs = (cifar10().test.tensors[0][:n] * LUMA).sum(1, keepdim=True)[:, :, 2:-2, 2:-2]
    return DataLoader(TensorDataset(x[:n], y[:n]), batch_size=1000), DataLoader(photographs, batch_size=1000)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=5, help="epochs of the sparse fit")
    parser.add_argument("--keep", type=float, default=0.1, help="fraction of the weights to keep")
    parser.add_argument("--images", type=int, default=10_000, help="how many test images of each set")
    parser.add_argument("--draws", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()

    bnet = fitted(args.epochs, args.keep, args.seed)
    inside, outside = (
        bp.predict(bnet, loader, draws=args.draws, seed=args.seed) for loader in digits_and_photographs(args.images)
    )
    assert inside.targets is not None
    print(f"error on MNIST {error(inside.mean, inside.targets):.2%}, {args.keep:.0%} of the weights kept")
    for part in ("epistemic", "aleatoric"):
        digits, photographs = (getattr(p, part).mean() for p in (inside, outside))
        print(f"mean {part} entropy: MNIST {digits:.4f}, CIFAR-10 {photographs:.4f} nats")
    print(f"AUROC of the epistemic entropy: {auroc(inside.epistemic, outside.epistemic):.3f}")
    print(f"AUROC of the entropy of the mean: {auroc(entropy(inside.mean), entropy(outside.mean)):.3f}")


if __name__ == "__main__":
    main()
