"""Architectures by the name that stands in a weights file."""

from mlip.models.base import AtomOutputs as AtomOutputs
from mlip.models.base import EnergyModel as EnergyModel
from mlip.models.mace import MACE as MACE

ARCHITECTURES: dict[str, type[EnergyModel]] = {"MACE": MACE}
