"""Machine-learned interatomic potentials: energies, forces and stresses through the ASE calculator.

Attributes are imported on first use, so that `import mlip` and `mlip --help` cost nothing beyond Python itself.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from mlip._extension import compiled as compiled
    from mlip.calculators import MLIPCalculator as MLIPCalculator
    from mlip.calculators import PropertyCalculator as PropertyCalculator
    from mlip.graph import AtomGraph as AtomGraph
    from mlip.neighbors import neighbor_list as neighbor_list
    from mlip.potential import Potential as Potential
    from mlip.potential import Prediction as Prediction
    from mlip.property_model import PropertyModel as PropertyModel
    from mlip.zoo import load as load

_HOME = {
    "AtomGraph": "mlip.graph",
    "MLIPCalculator": "mlip.calculators",
    "Potential": "mlip.potential",
    "Prediction": "mlip.potential",
    "PropertyCalculator": "mlip.calculators",
    "PropertyModel": "mlip.property_model",
    "compiled": "mlip._extension",
    "load": "mlip.zoo",
    "neighbor_list": "mlip.neighbors",
}
__all__ = [
    "AtomGraph",
    "MLIPCalculator",
    "Potential",
    "Prediction",
    "PropertyCalculator",
    "PropertyModel",
    "__version__",
    "compiled",
    "load",
    "neighbor_list",
]


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(import_module(_HOME[name]), name)
    raise AttributeError(f"module 'mlip' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
