"""Entry point of the group `ase.plugins`: ASE (3.29 and newer) finds the calculator by the name "mlip"."""

from __future__ import annotations

from functools import cached_property
from importlib.metadata import PackageMetadata, metadata

from ase._4.plugins.plugin import CalculatorPlugin


class MLIPPlugin(CalculatorPlugin):
    """ASE takes the import name for the distribution's name; here they differ."""

    @cached_property
    def package_data(self) -> PackageMetadata:
        return metadata("mlip-torch")


__ase_plugins__ = {MLIPPlugin("mlip", implementation="mlip.calculators.MLIPCalculator")}
