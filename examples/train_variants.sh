#!/bin/sh
# The other two models of the README's table: HDNNP and a small DimeNet++ on the silicon set of the mlearn benchmark.
# Data: github.com/materialsvirtuallab/mlearn, as extended xyz under $MLIP_DATA/mlearn. 6 and 12 minutes on one core; the
# schedules follow the clock, so another machine gives other digits.
set -e
mlip train --name hdnnp --work_dir examples/output/variants \
    --train_file "$MLIP_DATA/mlearn/Si/train.extxyz" --test_file "$MLIP_DATA/mlearn/Si/test.extxyz" --E0s average \
    --model HDNNP --r_max 5.5 --num_symmetry_functions 64 --hidden_layers "[16, 16]" --energy_weight 1000 \
    --optimizer soap --lr 0.02 --scheduler linear --max_time 6
mlip train --name dimenet --work_dir examples/output/variants \
    --train_file "$MLIP_DATA/mlearn/Si/train.extxyz" --test_file "$MLIP_DATA/mlearn/Si/test.extxyz" --E0s average \
    --model DimeNet++ --r_max 4.5 --num_channels 32 --num_interactions 2 --int_emb_size 32 --out_emb_channels 64 \
    --num_spherical 5 --num_radial_basis 6 --batch_size 2 --energy_weight 1000 \
    --optimizer soap --lr 0.005 --warmup_steps 30 --scheduler linear --max_time 12
python -m benchmarks.variants "$MLIP_DATA/mlearn/Si/test.extxyz" silicon \
    examples/output/variants/dimenet.safetensors examples/output/variants/hdnnp.safetensors
