"""Checks that ship with the package, so that every model and calculator inherits its tests."""
