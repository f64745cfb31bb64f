"""Front ends to simulation engines, imported as `mlip.calculators`."""

from mlip.calculators.ase_calculator import MLIPCalculator as MLIPCalculator
