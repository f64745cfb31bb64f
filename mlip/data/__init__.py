"""Labelled structures: reading, reference energies, splits, statistics, batches, error measures."""
