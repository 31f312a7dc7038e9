"""Methods of tracking that never raise: nothing that happens in them may end a training."""

from __future__ import annotations

import functools
import logging
import re
from collections import Counter
from collections.abc import Callable
from typing import Any

from mlflow.tracking import MlflowClient

from anemoi_house.tracking.servers.failures import one_line

LOGGER = logging.getLogger(__name__)


def harmless(method: Callable[..., Any]) -> Callable[..., Any]:
    """Log failures of a method in one line, the same one again each time that its number is ten times as large."""

    @functools.wraps(method)
    def guarded(self: Any, *args: Any, **kwargs: Any) -> Any:
        try:
            return method(self, *args, **kwargs)
        except Exception as failure:
            reason = one_line(str(failure)) or type(failure).__name__
            failures = self.__dict__.setdefault("_failures", Counter())
            failures[method, reason] += 1
            if re.fullmatch("10*", times := str(failures[method, reason])):
                again = "" if times == "1" else f" (for the {times}th time)"
                LOGGER.warning("Tracking: %s failed and is skipped%s: %s", method.__name__, again, reason)
            return None

    return guarded


class HarmlessClient(MlflowClient):
    """MLflow's client, whose logging methods never raise."""


_LOGGING = re.compile(r"log_(?!model|outputs)|set_tag$|delete_tag$|set_terminated$|update_run$")
for _name in filter(_LOGGING.match, dir(MlflowClient)):
    setattr(HarmlessClient, _name, harmless(getattr(MlflowClient, _name)))
