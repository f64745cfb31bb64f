"""Training of potentials: configuration, loss, engine, outputs. Needs the extra `train` (lightning)."""
