"""Users' mistakes that are found inside a stock command."""

from __future__ import annotations

import errno
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from hydra.errors import CompactHydraException
from omegaconf.errors import InterpolationResolutionError

from anemoi_house.errors import HouseError


class CommandError(HouseError, CompactHydraException, SystemExit):
    """End a stock command with a message and no traceback.

    `anemoi-training train` runs under Hydra, which prints a compact exception without its traceback.
    `anemoi-training config validate` and `anemoi-graphs create` do not; there the interpreter prints a SystemExit in
    the same way. It must not be a ValueError, which pydantic would wrap.
    """

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.code = message


class ResolverError(CommandError, InterpolationResolutionError):
    """Report a mistake found while a value of the config is resolved.

    OmegaConf passes its own kind of error through unchanged. That kind is a ValueError, which anemoi's command line
    prints with a traceback unless a hook for uncaught errors is set.
    """

    def __init__(self, message: str) -> None:
        super().__init__(message)
        _set_hook(_as_python_does)


@contextmanager
def mistakes_as(kind: type[Exception], prefix: str = "") -> Iterator[None]:
    """Raise users' mistakes as another kind of error, with the same message; also a decorator.

    Parameters
    ----------
    kind : type
        What the caller passes on as it is: `CommandError`, `ResolverError`, or ValueError inside pydantic.
    prefix : str
        Beginning of the message.
    """
    try:
        yield
    except HouseError as mistake:
        raise kind(f"{prefix}{mistake}") from None


def explain_disk_errors() -> None:
    """Make `anemoi-datasets` end with one line if the disk is full or read-only; it does not explain that itself."""
    _set_hook(_disk_in_one_line)


def _set_hook(hook: Any) -> None:
    if sys.excepthook is sys.__excepthook__:
        sys.excepthook = hook


def _as_python_does(*error: Any) -> None:
    sys.__excepthook__(*error)


def _disk_in_one_line(kind: Any, error: Any, trace: Any) -> None:
    code = getattr(error, "errno", None) if isinstance(error, OSError) else None
    if code in (errno.ENOSPC, errno.EDQUOT):
        text = "The disk is full. Loaded dates are kept. Free some space and run `anemoi-datasets load DATASET`."
    elif isinstance(error, FileExistsError):
        text = f"{error} To continue an unfinished one: `anemoi-datasets load DATASET`."
    elif code in (errno.EACCES, errno.EROFS):
        text = f"{error.filename}: cannot be written ({error.strerror}). Give another folder."
    else:
        return _as_python_does(kind, error, trace)
    print(text, file=sys.stderr)
