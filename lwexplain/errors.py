"""The one exception family: every message names the thing, what was found, and the next step."""

import errno

MENDS = {
    errno.EACCES: "give this user the right to it (chmod, chown), or choose another place",
    errno.EPERM: "the system does not allow it; choose another place",
    errno.EROFS: "the file system is read-only; choose another place",
    errno.ENOSPC: "free space on that disk, then run the same command again",
    errno.EDQUOT: "the quota is used up; free space, then run the same command again",
    errno.EFBIG: "the file would be larger than allowed; raise ulimit -f or choose another place",
    errno.EMFILE: "too many files are open; raise the limit (ulimit -n), then run the same command again",
    errno.ENFILE: "the machine has too many files open; end other programs, then run the same command again",
    errno.ENOMEM: "free memory, then run the same command again",
    errno.ENAMETOOLONG: "choose a shorter name",
    errno.ENOENT: "check the path",
    errno.ENOTDIR: "a part of the path is a file; check the path",
    errno.EISDIR: "it is a folder; name a file",
    errno.ELOOP: "its links lead in a circle; name the place itself",
    errno.EIO: "the disk fails; copy what is left to another one",
    errno.ESTALE: "the network folder has gone; mount it again, then run the same command again",
    errno.ETXTBSY: "a program is using it; end that program",
    errno.EBUSY: "it is in use; wait, then run the same command again",
}


def mend(error: OSError) -> str:
    """What to do about an error of the operating system."""
    return MENDS.get(error.errno or 0, "check the path and the disk it lies on")


class LwexplainWarning(UserWarning):
    """Something that a person should know, and that does not stop what was asked."""


class LwexplainError(Exception):
    """Base of all errors meant for a person. The command line prints it and exits with code 2.

    The message names the thing, the value found, what was expected, and the next step.

    Examples:
        >>> try:
        ...     lw.load_config({"training": {"epoch": 3}})
        ... except lw.LwexplainError as error:
        ...     print(error)
        the configuration: unknown key 'training.epoch'; did you mean 'epochs'? known: ...
    """


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
