"""Readers of other packages' weights. Files of strangers: read, checked, never executed."""
