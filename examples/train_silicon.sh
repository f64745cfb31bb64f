#!/bin/sh
# The command that trained the bundled potential `silicon`, as it stands in the file's header (`mlip info silicon`).
# Data: mlearn/Si of Zuo et al., J. Phys. Chem. A 124, 731 (2020), as extended xyz under $MLIP_DATA.
# Six minutes on one core. The schedule follows the clock, so another run gives other digits (docs/accuracy.md).
set -e
mlip train --name silicon --work_dir examples/output/silicon --seed 1 \
    --train_file "$MLIP_DATA/mlearn/Si/train.extxyz" --test_file "$MLIP_DATA/mlearn/Si/test.extxyz" \
    --valid_fraction 0.05 --E0s average --r_max 5.0 --hidden_irreps "32x0e + 32x1o" --radial_MLP "[64, 64]" \
    --loss stress --energy_weight 500 --forces_weight 10 --stress_weight 5000 \
    --batch_size 2 --optimizer soap --lr 0.02 --ema_decay 0.99 --scheduler linear --max_time 6
