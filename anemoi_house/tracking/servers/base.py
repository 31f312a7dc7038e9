"""What the sender asks of a tracking server, whichever it is.

A module of this folder is one kind of server: a subclass of `Server`, and the functions of `connect.Tracker`.
"""

from __future__ import annotations

import socket
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import wraps
from pathlib import Path
from typing import Any, NamedTuple, TypeVar
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

from anemoi_house.errors import HouseError
from anemoi_house.tracking.redact import Redactor
from anemoi_house.tracking.servers.failures import ServerError, UnavailableError, explain, reason_of_network

RUN_TAG = "house.run_id"
"""Tag by which the run is found on the server: its id in the spool."""
CREATED_TAG = "house.created"
PARENT_TAG = "mlflow.parentRunId"
FORK_TAG = "forkedRunId"
TIMEOUT_S = 10
_PORTS = {"http": 80, "https": 443}

_T = TypeVar("_T")


@dataclass(frozen=True)
class Limits:
    """What a server takes in one call."""

    metrics: int = 1000
    params: int = 100
    tags: int = 100


@dataclass
class RemoteRun:
    """A run as the server has it."""

    run_id: str
    experiment_id: str
    status: str
    deleted: bool
    used: bool = False
    """Whether anything was sent to it."""
    tags: dict[str, str] = field(default_factory=dict)


class MetricPoint(NamedTuple):
    """One value of a metric; a *row* of the record."""

    key: str
    value: float
    time: int
    """In ms."""
    step: int


class Server(ABC):
    """A tracking server. Every method raises a `ServerError` of `failures`, and no other error of the network.

    Parameters
    ----------
    uri : str
    name : str
        How messages call it.

    Attributes
    ----------
    limits : Limits
    overwrites : bool
        Whether an artifact can be sent again under the same name.
    """

    limits = Limits()
    overwrites = True
    marks: Sequence[str] = ("error_code",)
    """Keys by which a refusal is known to be the server's own; see `explain`."""

    def __init__(self, uri: str, name: str) -> None:
        self.uri, self.name = uri, name
        self._reached = False

    @abstractmethod
    def experiment(self, name: str) -> str:
        """Return the id of an experiment, created if missing; raise a GoneError if it was deleted."""

    @abstractmethod
    def find(self, run_id: str, experiment_id: str | None = None) -> list[RemoteRun]:
        """Return the runs, also deleted ones, that carry the id of a spool; of one experiment or of all."""

    @abstractmethod
    def run(self, run_id: str) -> RemoteRun | None:
        """Return a run by the server's id, or None if there is none."""

    @abstractmethod
    def create(self, experiment_id: str, name: str, start_time: int, tags: dict[str, str]) -> RemoteRun:
        """Create a run."""

    @abstractmethod
    def discard(self, run_id: str) -> None:
        """Delete a run to which nothing was sent."""

    @abstractmethod
    def set_status(self, run_id: str, status: str, end_time: int | None = None) -> None:
        """Set the status of a run, and the time in ms of its end."""

    @abstractmethod
    def log_metrics(self, run_id: str, points: Sequence[MetricPoint]) -> None:
        """Send metrics, at most `limits.metrics`."""

    @abstractmethod
    def log_params(self, run_id: str, params: dict[str, str]) -> None:
        """Send parameters, at most `limits.params`."""

    @abstractmethod
    def set_tags(self, run_id: str, tags: dict[str, str]) -> None:
        """Send tags, at most `limits.tags`."""

    @abstractmethod
    def newest(self, run_id: str) -> dict[str, tuple[int, int]] | None:
        """Return the highest (step, time) that the server has of each metric; None if it cannot be relied upon."""

    @abstractmethod
    def history(self, run_id: str, key: str) -> list[MetricPoint]:
        """Return all points of a metric."""

    def has_rows(self, run_id: str, key: str, count: int) -> bool:
        """Return whether the server has at least so many points of a metric."""
        return len(self.history(run_id, key)) >= count

    def sizes(self, run_id: str, folder: str) -> dict[str, int] | None:
        """Return the sizes of the artifacts in a folder by their names; None if that cannot be asked for."""
        return None

    @abstractmethod
    def upload(self, run_id: str, local: Path, name: str) -> None:
        """Send a file under a name; raise an ExistsError if the name is taken and cannot be overwritten."""

    @abstractmethod
    def artifact(self, run_id: str, name: str) -> bytes | None:
        """Return the content of an artifact, or None if there is none."""

    def explain(self, failure: Exception) -> ServerError:
        """Return the error by which the sender decides what to do about a failure; its message has one line."""
        return explain(failure, self.name, self.host, self.marks)

    @property
    def host(self) -> str:
        """Host of the server, or its name if it has none."""
        return urlsplit(self.uri).netloc or self.name

    def prepare(self) -> None:
        """Raise an UnavailableError if nobody listens; checked before each call until a connection has succeeded once.

        This is cheap, while importing a client takes seconds of CPU that the training needs.
        """
        parts = urlsplit(self.uri)
        if self._reached or parts.scheme not in _PORTS or parts.hostname is None:
            return
        if {parts.scheme, "all"} & getproxies().keys() and not proxy_bypass(parts.hostname):
            return  # only the proxy can tell
        try:
            socket.create_connection((parts.hostname, parts.port or _PORTS[parts.scheme]), TIMEOUT_S).close()
        except TimeoutError:
            raise UnavailableError(f"{parts.netloc} does not answer") from None
        except (OSError, UnicodeError) as failure:
            raise UnavailableError(f"cannot connect to {parts.netloc}{reason_of_network(str(failure))}") from None
        self._reached = True


def explained(method: Callable[..., _T]) -> Callable[..., _T]:
    """Prepare the server before a method, and turn its failures into `ServerError`."""

    @wraps(method)
    def explaining(self: Server, *arguments: Any, **settings: Any) -> _T:
        try:
            self.prepare()
            return method(self, *arguments, **settings)
        except HouseError:
            raise
        except Exception as failure:
            raise self.explain(failure) from None

    return explaining


def check_no_password(uri: str) -> None:
    """Raise a HouseError for an address that holds a user or a password."""
    parts = urlsplit(uri)
    if "@" in parts.netloc or hide_secrets(f"?{parts.query}#{parts.fragment}") != f"?{parts.query}#{parts.fragment}":
        raise HouseError(
            f"tracking_uri: {hide_secrets(uri)}: remove user, password and token, as addresses are written to logs and "
            "files. Set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or MLFLOW_TRACKING_TOKEN, instead."
        )


def hide_secrets(uri: str) -> str:
    """Return an address without secrets."""
    return Redactor({}).text(uri)
