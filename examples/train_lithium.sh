#!/bin/sh
# The potential of docs/accuracy.md for lithium.
# Data: mlearn/Li of Zuo et al., J. Phys. Chem. A 124, 731 (2020), as extended xyz under $MLIP_DATA.
# An hour on one core, as much as that one had. The schedule follows the clock: other digits each time.
set -e
mlip train --name lithium --work_dir examples/output/lithium --seed 1 \
    --train_file "$MLIP_DATA/mlearn/Li/train.extxyz" --test_file "$MLIP_DATA/mlearn/Li/test.extxyz" \
    --valid_fraction 0.05 --E0s average --r_max 5 --hidden_irreps "48x0e + 48x1o" --radial_MLP "[64, 64]" \
    --loss stress --energy_weight 2000 --forces_weight 100 --stress_weight 5000 \
    --batch_size 5 --eval_interval 2 --lr 0.01 --ema --ema_decay 0.999 --scheduler cosine \
    --max_num_epochs 1000 --max_time 55
