"""Users' mistakes that are found inside a stock command."""

from __future__ import annotations

import errno
import sys
from typing import Any

from hydra.errors import CompactHydraException
from omegaconf.errors import InterpolationResolutionError

from anemoi_house.errors import HouseError


class CommandError(HouseError, CompactHydraException, SystemExit):
    """Ends a stock command with its message alone.

    `anemoi-training train` runs below Hydra, which prints a compact exception without its
    traceback; `anemoi-training config validate` and `anemoi-graphs create` do not, and there the
    interpreter does the same for a SystemExit. It is no ValueError, so that pydantic lets it through.
    """

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.code = message


class ResolverError(CommandError, InterpolationResolutionError):
    """A mistake found while a value of the config is resolved.

    OmegaConf lets its own kind of error through unchanged, and that is a ValueError: anemoi's command line
    prints those with a traceback, unless somebody has set a hook for what is not caught.
    """

    def __init__(self, message: str) -> None:
        super().__init__(message)
        if sys.excepthook is sys.__excepthook__:
            sys.excepthook = _as_python_does


def end_plainly_on_a_disk() -> None:
    """Let what a disk refuses end `anemoi-datasets` with one line; it has no word of its own about that."""
    if sys.excepthook is sys.__excepthook__:
        sys.excepthook = _disk_in_one_line


def _as_python_does(*error: Any) -> None:
    sys.__excepthook__(*error)


def _disk_in_one_line(kind: Any, error: Any, trace: Any) -> None:
    code = getattr(error, "errno", None) if isinstance(error, OSError) else None
    if code in (errno.ENOSPC, errno.EDQUOT):
        told = "The disk is full. What was loaded stays: free some space and go on with `anemoi-datasets load DATASET`"
    elif isinstance(error, FileExistsError):
        told = f"{error} To go on with one that is not finished: `anemoi-datasets load DATASET`"
    elif code in (errno.EACCES, errno.EROFS):
        told = f"{error.filename}: cannot be written to ({error.strerror}); give another folder"
    else:
        return _as_python_does(kind, error, trace)
    print(told, file=sys.stderr)
