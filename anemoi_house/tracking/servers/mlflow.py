"""The servers that a run can be sent to: what the drain asks of them.

`import mlflow` takes seconds, and is left to `connect`.
"""

from __future__ import annotations

import os
import re
import socket
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import wraps
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import unquote, urlsplit
from urllib.request import getproxies, proxy_bypass

from anemoi_house.errors import HouseError
from anemoi_house.tracking.redact import Redactor
from anemoi_house.tracking.servers.failures import (
    GoneError,
    RefusedError,
    ServerError,
    UnavailableError,
    explain,
    one_line,
    reason_of_network,
)

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

SCHEMES = ("http", "https", "sqlite", "azureml")
RUN_TAG = "house.run_id"
"""Tag by which a server's run is found again: the id that the run has in its spool."""
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


Row = tuple[str, float, int, int]
"""Key, value, time in ms, step."""


def check_uri(uri: str) -> None:
    """Raise a HouseError for an address that no client is for, or that holds a password."""
    parts = urlsplit(uri)
    shown = Redactor({}).text(uri)
    if parts.scheme not in SCHEMES:
        raise HouseError(
            f"tracking_uri: {shown}: {f'{parts.scheme}:// is not known' if parts.scheme else 'has no scheme'}; "
            "give http://, https://, sqlite:///FILE or azureml://"
        )
    if parts.password is not None or "@" in parts.netloc:
        raise HouseError(
            f"tracking_uri: {shown}: a user and a password do not belong into an address, which is written down in "
            "many places; set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD instead"
        )
    if parts.scheme in ("http", "https") and not parts.hostname:
        raise HouseError(f"tracking_uri: {shown}: names no server; write it like https://mlflow.example.org")
    if parts.scheme == "sqlite" and not parts.path.strip("/"):
        raise HouseError(f"tracking_uri: {shown}: names no file; write it like sqlite:////scratch/me/mlflow.db")


def shown_uri(uri: str) -> str:
    """Address as people read it: of an Azure ML workspace, its name."""
    found = re.search(r"/workspaces/([^/?]+)", uri)
    if uri.startswith("azureml:") and found:
        return f"Azure ML workspace {unquote(found[1])}"
    return Redactor({}).text(uri)


def prepare_process() -> None:
    """Set what keeps one call to a server short, in the process that does nothing but such calls.

    There are no retries inside a call. A repeated one would carry the old token; and it would send rows twice where
    the first was carried out, and only its answer lost: the drain asks the server first.
    """
    os.environ.update(
        {
            "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",
            "MLFLOW_HTTP_REQUEST_TIMEOUT": str(TIMEOUT_S),
            "AZUREML_HTTP_REQUEST_TIMEOUT": str(TIMEOUT_S),
            "MLFLOW_DISABLE_TELEMETRY": "true",
            "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
            "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
        }
    )
    for name in ("MLFLOW_RUN_CONTEXT", "MLFLOW_ENABLE_ASYNC_LOGGING"):
        os.environ.pop(name, None)


def connect(target: dict[str, Any]) -> Server:
    """Server that a run is meant for.

    Parameters
    ----------
    target : dict
        As in `target.json` of a spool: `uri`, and optionally `authentication` and `aml`.

    Raises
    ------
    HouseError
        For an address that no client is for, or a package that is missing.
    UnavailableError
        The server cannot be asked, or refuses to sign in.
    """
    uri = target["uri"]
    check_uri(uri)
    prepare_process()
    match urlsplit(uri).scheme:
        case "azureml":
            from anemoi_house.tracking.servers.azure import AzureServer

            return AzureServer(uri, target.get("aml"))
        case "sqlite":
            return FileServer(uri)
        case _:
            return Server(uri, authentication=bool(target.get("authentication")))


def _told(method: Callable[..., _T]) -> Callable[..., _T]:
    """The method, whose failures are `ServerError`s with one line each."""

    @wraps(method)
    def translating(self: Server, *arguments: Any, **settings: Any) -> _T:
        try:
            self.knock()
            self.sign_in()
            return method(self, *arguments, **settings)
        except HouseError:
            raise
        except Exception as failure:
            raise self.explain(failure) from None

    return translating


class Server:
    """An MLflow server.

    Parameters
    ----------
    uri : str
    authentication : bool
        Whether it wants the token of `anemoi-training mlflow login`, as ECMWF's servers do.

    Attributes
    ----------
    limits : Limits
    overwrites : bool
        Whether an artifact can be sent again under the same name.
    name : str
        As messages give it.
    """

    limits = Limits()
    overwrites = True

    def __init__(self, uri: str, authentication: bool = False) -> None:
        self.uri = uri
        self.name = shown_uri(uri)
        self._client: MlflowClient | None = None
        self._auth: Any = None
        self._listened = False
        self._authentication = authentication

    @property
    def client(self) -> MlflowClient:
        """MLflow's client; made when it is first needed."""
        if self._client is None:
            self._client = self._connect()
        return self._client

    def knock(self) -> None:
        """Raise an UnavailableError where nobody listens, until somebody did once.

        It costs nothing, and the import of a client seconds of a processor that a training beside it needs.
        """
        parts = urlsplit(self.uri)
        if self._listened or parts.scheme not in _PORTS or parts.hostname is None:
            return
        if {parts.scheme, "all"} & getproxies().keys() and not proxy_bypass(parts.hostname):
            return  # the proxy knows ways that we do not
        try:
            socket.create_connection((parts.hostname, parts.port or _PORTS[parts.scheme]), TIMEOUT_S).close()
        except TimeoutError:
            raise UnavailableError(f"{parts.netloc} does not answer") from None
        except (OSError, UnicodeError) as failure:
            raise UnavailableError(f"cannot connect to {parts.netloc}{reason_of_network(str(failure))}") from None
        self._listened = True

    def sign_in(self) -> None:
        """Get a token where the server wants one and there is none, or an old one."""
        if not self._authentication:
            return
        if self._auth is None:
            from anemoi.utils.mlflow.auth import TokenAuth

            self._auth = TokenAuth(self.uri)
        try:
            self._auth.authenticate()
        except RuntimeError as refused:
            raise UnavailableError(
                f"sign-in refused: {one_line(str(refused))}; anemoi-training mlflow login --url {self.uri}", 1
            ) from None

    @_told
    def experiment(self, name: str) -> str:
        """Id of an experiment, made where it is missing; a GoneError where it was deleted."""
        from mlflow.exceptions import MlflowException

        found = self.client.get_experiment_by_name(name)
        if found is None:
            try:
                return self.client.create_experiment(name, artifact_location=self._artifact_location())
            except MlflowException as failure:
                if failure.error_code != "RESOURCE_ALREADY_EXISTS":
                    raise
            found = self.client.get_experiment_by_name(name)  # somebody else was faster
        if found is None or found.lifecycle_stage == "deleted":
            raise GoneError(
                f"the experiment {name!r} was deleted on {self.name}: restore it there, then sync again, "
                "or send the run elsewhere with --to URI"
            )
        return found.experiment_id

    @_told
    def find(self, run_id: str, experiment_id: str | None = None) -> list[RemoteRun]:
        """Runs that carry the id of a spool, also deleted ones; in one experiment or in all."""
        from mlflow.entities import ViewType

        if experiment_id is None:
            experiments = [one.experiment_id for one in self.client.search_experiments()]
        else:
            experiments = [experiment_id]
        where = "tags.{} = '{}'".format(RUN_TAG, run_id.replace("'", ""))
        found = self.client.search_runs(experiments, where, run_view_type=ViewType.ALL) if experiments else []
        return [run for run in map(_remote, found) if run.tags.get(RUN_TAG) == run_id]

    @_told
    def run(self, run_id: str) -> RemoteRun | None:
        """A run by the server's id; None where there is none."""
        from mlflow.exceptions import MlflowException

        try:
            return _remote(self.client.get_run(run_id))
        except MlflowException as failure:
            if failure.error_code in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
                return None
            raise

    @_told
    def create(self, experiment_id: str, name: str, start_time: int, tags: dict[str, str]) -> RemoteRun:
        """Make a run."""
        return _remote(self.client.create_run(experiment_id, start_time=start_time, tags=tags, run_name=name or None))

    @_told
    def discard(self, run_id: str) -> None:
        """Take away a run that nothing was sent to."""
        self.client.set_tag(run_id, RUN_TAG, "-")  # first of all: nobody is to find it, even if the rest fails
        self.client.delete_run(run_id)

    @_told
    def set_status(self, run_id: str, status: str, end_time: int | None = None) -> None:
        """Say that a run goes on, or how and when (ms) it has ended."""
        if end_time is None:
            self.client.update_run(run_id, status=status)
        else:
            self.client.set_terminated(run_id, status, end_time)

    @_told
    def log_metrics(self, run_id: str, rows: Sequence[Row]) -> None:
        """Send metrics, at most `limits.metrics`."""
        from mlflow.entities import Metric

        self.client.log_batch(run_id, metrics=[Metric(key, value, at, step) for key, value, at, step in rows])

    @_told
    def log_params(self, run_id: str, params: dict[str, str]) -> None:
        """Send parameters, at most `limits.params`."""
        from mlflow.entities import Param

        self.client.log_batch(run_id, params=[Param(key, value) for key, value in params.items()])

    @_told
    def set_tags(self, run_id: str, tags: dict[str, str]) -> None:
        """Send tags, at most `limits.tags`."""
        from mlflow.entities import RunTag

        self.client.log_batch(run_id, tags=[RunTag(key, value) for key, value in tags.items()])

    @_told
    def newest(self, run_id: str) -> dict[str, tuple[int, int]] | None:
        """Highest (step, time) that the server has of each metric; None where that cannot be relied upon."""
        return {one.key: (one.step, one.timestamp) for one in self.client.get_run(run_id).data._metric_objs}

    @_told
    def history(self, run_id: str, key: str) -> list[Row]:
        """All rows of a metric."""
        found = self.client.get_metric_history(run_id, key)
        return [(one.key, one.value, one.timestamp, one.step) for one in found]

    @_told
    def upload(self, run_id: str, local: Path, name: str) -> None:
        """Send a file under a name; an ExistsError where that is taken and stays so."""
        path = PurePosixPath(name)
        if path.is_absolute() or ".." in path.parts or str(path) != name or not path.name:
            raise RefusedError("this is no name for an artifact")
        self._upload(run_id, local, name)

    @_told
    def artifact(self, run_id: str, name: str) -> bytes | None:
        """Content of an artifact; None where there is none."""
        return self._content(run_id, name)

    def explain(self, failure: Exception) -> ServerError:
        """What a failure means for the drain, and one line about it."""
        return explain(failure, self.name, self._names_host())

    def _connect(self) -> MlflowClient:
        import mlflow

        mlflow.set_tracking_uri(self.uri)  # repositories of artifacts ask for the global one
        return mlflow.MlflowClient(self.uri)

    def _artifact_location(self) -> str | None:
        return None

    def _names_host(self) -> str:
        return urlsplit(self.uri).netloc or self.name

    def _upload(self, run_id: str, local: Path, name: str) -> None:
        folder, _, base = name.rpartition("/")
        with tempfile.TemporaryDirectory() as temporary:
            named = Path(temporary) / base
            named.symlink_to(local.resolve())
            self.client.log_artifact(run_id, str(named), folder or None)

    def _content(self, run_id: str, name: str) -> bytes | None:
        if not any(one.path == name for one in self.client.list_artifacts(run_id, name.rpartition("/")[0] or None)):
            return None
        with tempfile.TemporaryDirectory() as temporary:
            return Path(self.client.download_artifacts(run_id, name, temporary)).read_bytes()


class FileServer(Server):
    """A store in a SQLite file, without a server; the artifacts are in the folder `artifacts` beside it."""

    def _connect(self) -> MlflowClient:
        folder = self._folder()
        try:
            (folder / "artifacts").mkdir(parents=True, exist_ok=True)
            if not self._file().exists():
                self._make(folder)
        except OSError as refused:
            raise UnavailableError(f"{folder} cannot be written to ({refused.strerror})", 1) from None
        return super()._connect()

    def _make(self, folder: Path) -> None:
        """Make the database under another name first: one that was killed among its tables can never be used."""
        from mlflow import MlflowClient

        with tempfile.TemporaryDirectory(prefix=".new-store-", dir=folder) as new:
            made = Path(new) / "mlflow.db"
            MlflowClient(f"sqlite:///{made}").search_experiments(max_results=1)
            try:
                os.link(made, self._file())
            except FileExistsError:
                return  # somebody else was faster
            except OSError:  # a file system without links
                os.replace(made, self._file())

    def _artifact_location(self) -> str:
        return (self._folder() / "artifacts").as_uri()

    def _folder(self) -> Path:
        return self._file().parent

    def _file(self) -> Path:
        # sqlite:///relative and sqlite:////absolute, as SQLAlchemy has it
        return Path(unquote(urlsplit(self.uri).path[1:])).absolute()


def _remote(run: Run) -> RemoteRun:
    info, data = run.info, run.data
    used = bool(data.metrics or data.params) or info.status != "RUNNING"
    return RemoteRun(
        info.run_id, info.experiment_id, str(info.status), info.lifecycle_stage == "deleted", used, dict(data.tags)
    )
