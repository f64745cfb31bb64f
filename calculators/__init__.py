"""Front ends to simulation engines, imported as `mlip.calculators`; loaded on first use."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mlip.calculators.ase_calculator import MLIPCalculator as MLIPCalculator
    from mlip.calculators.property_calculator import PropertyCalculator as PropertyCalculator

__all__ = ["MLIPCalculator", "PropertyCalculator"]


def __getattr__(name: str) -> Any:
    if name == "MLIPCalculator":
        from mlip.calculators.ase_calculator import MLIPCalculator

        return MLIPCalculator
    if name == "PropertyCalculator":
        from mlip.calculators.property_calculator import PropertyCalculator

        return PropertyCalculator
    raise AttributeError(f"module 'mlip.calculators' has no attribute {name!r}")
