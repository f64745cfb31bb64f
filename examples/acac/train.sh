#!/bin/sh
# The command that trained acac.safetensors, as it stands in the file's header (`mlip info examples/acac/acac.safetensors`).
# Data: acetylacetone at 300 K, github.com/davkovacs/BOTNet-datasets, as extended xyz under $MLIP_DATA/acac.
# 65 minutes on one core. The schedule follows the clock, so another run gives other digits of the same quality.
set -e
mkdir -p examples/output/acac
cat "$MLIP_DATA/acac/isolated_atoms.xyz" "$MLIP_DATA/acac/train_300K.xyz" > examples/output/acac/train.xyz
mlip train --name acac --work_dir examples/output/acac --seed 1 \
    --train_file examples/output/acac/train.xyz --test_file "$MLIP_DATA/acac/test_MD_300K.xyz" --valid_fraction 0.04 \
    --model ScaleShiftMACE --r_max 5 --hidden_irreps "128x0e+128x1o" --energy_weight 1000 --forces_weight 100 \
    --batch_size 5 --eval_interval 2 --optimizer soap --lr 0.02 --ema --ema_decay 0.995 --scheduler linear --max_time 65
