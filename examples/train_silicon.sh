#!/bin/sh
# The command that trained the bundled potential `silicon`.
# Data: mlearn/Si of Zuo et al., J. Phys. Chem. A 124, 731 (2020), as extended xyz in $MLIP_DATA.
set -e
mlip train --name silicon --train_file "$MLIP_DATA/mlearn/Si/train.extxyz" --test_file "$MLIP_DATA/mlearn/Si/test.extxyz"
