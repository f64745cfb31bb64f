"""Front ends to simulation engines, imported as `mlip.calculators`; loaded on first use."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mlip.calculators.ase_calculator import MLIPCalculator as MLIPCalculator

__all__ = ["MLIPCalculator"]


def __getattr__(name: str) -> Any:
    if name == "MLIPCalculator":
        from mlip.calculators.ase_calculator import MLIPCalculator

        return MLIPCalculator
    raise AttributeError(f"module 'mlip.calculators' has no attribute {name!r}")
