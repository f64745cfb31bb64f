#!/bin/sh
# The command that trained the bundled potential `silicon`; `mlip info silicon` shows the one in the file's header.
# Data: mlearn/Si of Zuo et al., J. Phys. Chem. A 124, 731 (2020), as extended xyz under $MLIP_DATA.
set -e
mlip train --name silicon --work_dir examples/output --seed 1 \
    --train_file "$MLIP_DATA/mlearn/Si/train.extxyz" --test_file "$MLIP_DATA/mlearn/Si/test.extxyz" \
    --valid_fraction 0.05 --E0s average --r_max 5.0 --hidden_irreps "16x0e + 16x1o" --radial_MLP "[32, 32]" \
    --energy_weight 500 --forces_weight 10 --stress_weight 5000 \
    --batch_size 4 --lr 0.01 --scheduler cosine --max_num_epochs 300 --max_time 40
