"""The one exception family of the package."""


class PtqError(Exception):
    """Anything ptq-opt refuses: the message names the tensor or node at fault and the cure."""


class GraphError(PtqError):
    """A graph that is malformed, or an edit that would make it so."""


class ModelError(PtqError):
    """A model file or proto that cannot be read, written or run."""


class DataError(PtqError):
    """Calibration data that does not fit the model."""


class OutOfMemory(PtqError):
    """More memory is needed than there is, or than the caller allows."""


class UsageError(PtqError):
    """A call, option or specification string that is wrong."""
