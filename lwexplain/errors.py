"""The one exception family: every message names the thing, what was found, and the next step."""


class LwexplainError(Exception):
    """Base of all errors meant for a person. The command line prints it and exits with code 2."""


class ConfigError(LwexplainError):
    """A configuration file, key or value is wrong."""


class UnknownNameError(LwexplainError):
    """A registry has no entry of that name, or the entry does not take that option."""


class DataError(LwexplainError):
    """A data set is missing, unreadable or unusable."""


class ModelError(LwexplainError):
    """A model cannot be built, or cannot be cut at the given stages."""


class RunError(LwexplainError):
    """A run directory is missing, foreign, unfinished or locked."""


class CheckpointError(RunError):
    """A checkpoint is missing, cut short or does not fit the model."""


class TrainingError(LwexplainError):
    """Training cannot go on (for example, the loss is not finite)."""


class TrainingInterrupted(LwexplainError):
    """Training was asked to stop (Ctrl-C, SIGTERM) and has saved a checkpoint to go on from."""


class CaptureError(LwexplainError):
    """Features of a stage cannot be captured."""


class ProbeError(LwexplainError):
    """A probe was given data it cannot measure, or returned something that is not a measurement."""


class UserCodeError(LwexplainError):
    """Code that the user passed in (a model, a loader, a pooling, a probe) raised; the cause is chained."""


class AdviceError(LwexplainError):
    """The measurements do not allow a recommendation."""


class ExportError(LwexplainError):
    """The shorter network cannot be written as asked, or the written file does not do what the network does."""
