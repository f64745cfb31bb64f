"""Architectures by the name that stands in a weights file."""

from mlip.models.base import AtomOutputs as AtomOutputs
from mlip.models.base import EnergyModel as EnergyModel
from mlip.models.dimenet import DimeNet as DimeNet
from mlip.models.dimenet import DimeNetPlusPlus as DimeNetPlusPlus
from mlip.models.hdnnp import HDNNP as HDNNP
from mlip.models.mace import MACE as MACE

ARCHITECTURES: dict[str, type[EnergyModel]] = {
    "DimeNet": DimeNet,
    "DimeNetPlusPlus": DimeNetPlusPlus,
    "HDNNP": HDNNP,
    "MACE": MACE,
}
