"""The committee of several potentials, which `mlip.committee` has, under its earlier name."""

from mlip.committee import Committee as Committee
from mlip.committee import CommitteePrediction as CommitteePrediction
