"""The errors `mlip` raises on purpose. Each message says what was wrong, what was expected and what to do.

And the warnings that have a class of their own, so that one can filter them or make errors of them.
"""


class MLIPError(Exception):
    """Base class of every error raised on purpose by this package."""


class InputError(MLIPError, ValueError):
    """Input that can't be right: a structure, an option, an array of the wrong shape."""


class TooLargeError(MLIPError, MemoryError):
    """A structure whose evaluation does not fit into memory."""


class DataError(InputError):
    """A data file that can't be read or whose labels can't be used."""


class UnknownElementError(InputError):
    """A structure holds an element that the model was not trained on."""


class ModelFileError(MLIPError):
    """A weights file that is corrupt, foreign, or written by a newer version."""


class DownloadError(ModelFileError):
    """A published weights file that could not be fetched."""


class ExtrapolationWarning(UserWarning):
    """A structure is outside the range of the training set: its energies and forces can be far off."""


class MissingDependencyError(MLIPError, ImportError):
    """An optional package is needed for what was asked."""
