"""The errors that a user can cause or meet, each with the exit code that a script sees.

    OchatError
    ├── UsageProblem          2   the call lacks something; the hint is the full command
    ├── ConfigError           3   a preset, a key or a combination of values
    ├── DataError             4   an input file or text is malformed; names `file:line`
    ├── EnvironmentProblem    5   a missing extra, no GPU, too little memory or disk
    │   └── MissingExtra
    ├── RemoteError           6   hub, judge or endpoint failed after retries
    └── RunError              7   a child process, an engine or the loss failed

Anything else that reaches the top is a bug of ours: exit 1 with its traceback.
"""


class OchatError(Exception):
    """An error to show as `error: ...` and `hint: ...`, without a traceback."""

    exit_code = 1

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __reduce__(self) -> tuple[object, ...]:
        # Worker processes send errors back pickled; the default would lose the hint.
        return (_rebuild, (type(self), self.message, self.hint))


class UsageProblem(OchatError):
    """The call lacks something that only the caller can give."""

    exit_code = 2


class ConfigError(OchatError):
    """A preset, a key or a combination of values cannot work."""

    exit_code = 3


class DataError(OchatError):
    """An input file or text is malformed."""

    exit_code = 4


class EnvironmentProblem(OchatError):
    """This machine lacks something: a package, a GPU, memory, disk."""

    exit_code = 5


class MissingExtra(EnvironmentProblem):
    """An optional package is not installed; the hint is the pip command."""


class RemoteError(OchatError):
    """A hub, a judge or an endpoint failed after retries."""

    exit_code = 6


class RunError(OchatError):
    """A child process, an engine or the loss failed."""

    exit_code = 7


def _rebuild(cls: type[OchatError], message: str, hint: str) -> OchatError:
    return cls(message, hint=hint)
