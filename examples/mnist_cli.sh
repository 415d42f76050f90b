#!/usr/bin/env bash
# The whole path on MNIST by the command line: fit, masks, sweep, report, export, info, bench.
#   examples/mnist_cli.sh [FOLDER]           a folder for the run; mnist-run by default
#   EPOCHS=20 PRETRAIN=5 examples/mnist_cli.sh   a longer fit; 4 and 2 by default
# A run that was killed goes on when the script is started again.
set -euo pipefail
run=${1:-mnist-run}

[ -f "$run/posterior.safetensors" ] || bayesprune fit --net lenet_300_100 --data mnist --out "$run" \
    --rule 'fc1.weight=SparseVD(Block(4, 1))' --rule 'fc*.weight=SparseVD()' --prune 'Cubic(keep=0.05)' \
    --pretrain "${PRETRAIN:-2}" --epochs "${EPOCHS:-4}" --batch 256 --lr 2e-3 --seed 0
bayesprune masks "$run" --keep 0.05
bayesprune sweep "$run" --keep 0.05 --keep 0.03 --keep 0.02
bayesprune report "$run" --html "$run/report.html"
bayesprune export "$run"
bayesprune info "$run"
bayesprune info "$run/model.safetensors"
bayesprune bench "$run" --budget 0.3
