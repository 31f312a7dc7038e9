"""MLflow servers, and MLflow's store in a SQLite file.

`import mlflow` takes seconds, and is left to the first call.
"""

from __future__ import annotations

import base64
import json
import os
import tempfile
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

from anemoi_house.errors import HouseError
from anemoi_house.tracking.servers.base import (
    RUN_TAG,
    TIMEOUT_S,
    MetricPoint,
    RemoteRun,
    Server,
    check_no_password,
    explained,
    hide_secrets,
)
from anemoi_house.tracking.servers.failures import GoneError, RefusedError, UnavailableError, one_line

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

shown_uri = hide_secrets
_UPLOAD_S = 60
_SLOWEST = 100_000
"""Seconds that any artifact may take, and bytes a second of the slowest store that is waited for."""


def check_uri(uri: str) -> None:
    """Raise a HouseError for an address without a server or a file, or with a password."""
    check_no_password(uri)
    parts = urlsplit(uri)
    if parts.scheme == "sqlite" and not parts.path.strip("/"):
        raise HouseError(f"tracking_uri: {uri}: names no file. Write it like sqlite:////scratch/me/mlflow.db.")
    if parts.scheme != "sqlite" and not parts.hostname:
        raise HouseError(f"tracking_uri: {uri}: names no server. Write it like https://mlflow.example.org.")


def target(uri: str, given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the `target.json` for an address: the run's own, or a new one for another server."""
    return dict(given) if uri == given.get("uri") else {"uri": uri, "authentication": _is_logged_in(uri)}


def connect(target: Mapping[str, Any]) -> Server:
    """Return the server of a `target.json`."""
    prepare_process()
    if urlsplit(target["uri"]).scheme == "sqlite":
        return SqliteServer(target["uri"])
    return MlflowServer(target["uri"], authentication=bool(target.get("authentication")))


def prepare_process() -> None:
    """Keep calls of MLflow's client short, in a process that does nothing else.

    Retries inside a call would carry an expired token, and would send rows twice if only the answer of the first
    attempt was lost: the sender asks the server before it repeats a call.
    """
    os.environ.update(
        {
            "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",
            "MLFLOW_DISABLE_TELEMETRY": "true",
            "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
            "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
        }
    )
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", str(TIMEOUT_S))
    for name in ("MLFLOW_RUN_CONTEXT", "MLFLOW_ENABLE_ASYNC_LOGGING"):
        os.environ.pop(name, None)


class MlflowServer(Server):
    """An MLflow server.

    Parameters
    ----------
    uri : str
    authentication : bool
        Whether it requires the token of `anemoi-training mlflow login`, as ECMWF's servers do.
    name : str, optional
        How messages call it; by default the address.
    """

    def __init__(self, uri: str, authentication: bool = False, name: str | None = None) -> None:
        super().__init__(uri, name or shown_uri(uri))
        self._auth: Any = None
        self._authentication = authentication

    @cached_property
    def client(self) -> MlflowClient:
        """MLflow's client; created when it is first needed."""
        return self._connect()

    def prepare(self) -> None:
        """Check that somebody listens; get a token, if the server requires one and there is none or an old one."""
        super().prepare()
        if not self._authentication:
            return
        if self._auth is None:
            from anemoi.utils.mlflow.auth import TokenAuth

            self._auth = TokenAuth(self.uri)
        try:
            self._auth.authenticate()
        except RuntimeError as refused:
            raise UnavailableError(
                f"sign-in refused: {one_line(str(refused))}; run: anemoi-training mlflow login --url {self.uri}", 1
            ) from None

    @explained
    def experiment(self, name: str) -> str:
        """Return the id of an experiment, created if missing; raise a GoneError if it was deleted."""
        from mlflow.exceptions import MlflowException

        found = self.client.get_experiment_by_name(name)
        if found is None:
            try:
                return self.client.create_experiment(name, artifact_location=self._artifact_location())
            except MlflowException as failure:
                if failure.error_code != "RESOURCE_ALREADY_EXISTS":
                    raise
            found = self.client.get_experiment_by_name(name)  # another process was faster
        if found is None or found.lifecycle_stage == "deleted":
            raise GoneError(
                f"the experiment {name!r} was deleted on {self.name}; restore it there and sync again, or send the "
                "run to another server with --to URI"
            )
        if not found.experiment_id:
            raise UnavailableError(f"the answer of {self.host} is not one of MLflow: it names no experiment", 1)
        return found.experiment_id

    @explained
    def find(self, run_id: str, experiment_id: str | None = None) -> list[RemoteRun]:
        """Return the runs, also deleted ones, that carry the id of a spool; of one experiment or of all."""
        from mlflow.entities import ViewType

        if experiment_id is None:
            experiments = [one.experiment_id for one in self.client.search_experiments()]
        else:
            experiments = [experiment_id]
        where = "tags.{} = '{}'".format(RUN_TAG, run_id.replace("'", ""))
        found = self.client.search_runs(experiments, where, run_view_type=ViewType.ALL) if experiments else []
        return [run for run in map(_remote, found) if run.tags.get(RUN_TAG) == run_id]

    @explained
    def run(self, run_id: str) -> RemoteRun | None:
        """Return a run by the server's id, or None if there is none."""
        from mlflow.exceptions import MlflowException

        try:
            return _remote(self.client.get_run(run_id))
        except MlflowException as failure:
            if failure.error_code in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
                return None
            raise

    @explained
    def create(self, experiment_id: str, name: str, start_time: int, tags: dict[str, str]) -> RemoteRun:
        """Create a run."""
        return _remote(self.client.create_run(experiment_id, start_time=start_time, tags=tags, run_name=name or None))

    @explained
    def discard(self, run_id: str) -> None:
        """Delete a run to which nothing was sent."""
        self.client.set_tag(run_id, RUN_TAG, "-")  # first: nobody must find it, even if the deletion fails
        self.client.delete_run(run_id)

    @explained
    def set_status(self, run_id: str, status: str, end_time: int | None = None) -> None:
        """Set the status of a run, and the time in ms of its end."""
        if end_time is None:
            self.client.update_run(run_id, status=status)
        else:
            self.client.set_terminated(run_id, status, end_time)

    @explained
    def log_metrics(self, run_id: str, points: Sequence[MetricPoint]) -> None:
        """Send metrics, at most `limits.metrics`."""
        from mlflow.entities import Metric

        self.client.log_batch(run_id, metrics=_sayable([Metric(*point) for point in points]))

    @explained
    def log_params(self, run_id: str, params: dict[str, str]) -> None:
        """Send parameters, at most `limits.params`."""
        from mlflow.entities import Param

        self.client.log_batch(run_id, params=_sayable([Param(key, value) for key, value in params.items()]))

    @explained
    def set_tags(self, run_id: str, tags: dict[str, str]) -> None:
        """Send tags, at most `limits.tags`."""
        from mlflow.entities import RunTag

        self.client.log_batch(run_id, tags=_sayable([RunTag(key, value) for key, value in tags.items()]))

    @explained
    def newest(self, run_id: str) -> dict[str, tuple[int, int]] | None:
        """Return the highest (step, time) that the server has of each metric."""
        return {one.key: (one.step, one.timestamp) for one in self.client.get_run(run_id).data._metric_objs}

    @explained
    def history(self, run_id: str, key: str) -> list[MetricPoint]:
        """Return all points of a metric."""
        found = self.client.get_metric_history(run_id, key)
        return [MetricPoint(one.key, one.value, one.timestamp, one.step) for one in found]

    @explained
    def has_rows(self, run_id: str, key: str, count: int) -> bool:
        """Return whether the server has at least so many points of a metric."""
        from mlflow.exceptions import MlflowException

        token = base64.b64encode(json.dumps({"offset": count - 1}).encode()).decode() if count > 1 else None
        try:
            # The last of them alone: a history may have more rows than can be read in a minute.
            return len(self.client._tracking_client.store.get_metric_history(run_id, key, 1, token)) > 0
        except MlflowException as failure:
            if failure.error_code != "INVALID_PARAMETER_VALUE":
                raise
            return len(self.history(run_id, key)) >= count  # an MLflow that cannot begin in the middle

    @explained
    def sizes(self, run_id: str, folder: str) -> dict[str, int] | None:
        """Return the sizes of the artifacts in a folder by their names."""
        found = self.client.list_artifacts(run_id, folder or None)
        return {one.path: one.file_size for one in found if not one.is_dir}

    @explained
    def upload(self, run_id: str, local: Path, name: str) -> None:
        """Send a file under a name; raise an ExistsError if the name is taken and cannot be overwritten."""
        path = PurePosixPath(name)
        if path.is_absolute() or ".." in path.parts or str(path) != name or not path.name:
            raise RefusedError("this name is not valid for an artifact")
        usual = os.environ.get("MLFLOW_HTTP_REQUEST_TIMEOUT", str(TIMEOUT_S))
        fitting = _UPLOAD_S + local.stat().st_size // _SLOWEST
        # A store may take long to answer for a large file, and the client has one timeout for everything.
        os.environ["MLFLOW_HTTP_REQUEST_TIMEOUT"] = usual if _seconds(usual) > fitting else str(fitting)
        try:
            self._upload(run_id, local, name)
        finally:
            os.environ["MLFLOW_HTTP_REQUEST_TIMEOUT"] = usual

    @explained
    def artifact(self, run_id: str, name: str) -> bytes | None:
        """Return the content of an artifact, or None if there is none."""
        if not any(one.path == name for one in self.client.list_artifacts(run_id, name.rpartition("/")[0] or None)):
            return None
        with tempfile.TemporaryDirectory() as temporary:
            return Path(self.client.download_artifacts(run_id, name, temporary)).read_bytes()

    def _connect(self) -> MlflowClient:
        import mlflow

        mlflow.set_tracking_uri(self.uri)  # artifact repositories use the global address
        return mlflow.MlflowClient(self.uri)

    def _artifact_location(self) -> str | None:
        return None

    def _upload(self, run_id: str, local: Path, name: str) -> None:
        folder, _, base = name.rpartition("/")
        with tempfile.TemporaryDirectory() as temporary:
            named = Path(temporary) / base
            named.symlink_to(local.resolve())
            self.client.log_artifact(run_id, str(named), folder or None)


class SqliteServer(MlflowServer):
    """MLflow's store in a SQLite file, without a server; artifacts are in the folder `artifacts` next to it."""

    def _connect(self) -> MlflowClient:
        folder = self._file().parent
        try:
            (folder / "artifacts").mkdir(parents=True, exist_ok=True)
            if not self._file().exists():
                self._create_database(folder)
        except OSError as refused:
            raise UnavailableError(f"{folder} cannot be written to ({refused.strerror})", 1) from None
        return super()._connect()

    def _create_database(self, folder: Path) -> None:
        """Create the database under another name first: one with only some of its tables can never be used."""
        from mlflow import MlflowClient

        with tempfile.TemporaryDirectory(prefix=".new-store-", dir=folder) as new:
            made = Path(new) / "mlflow.db"
            MlflowClient(f"sqlite:///{made}").search_experiments(max_results=1)
            try:
                os.link(made, self._file())
            except FileExistsError:
                return  # another process was faster
            except OSError:  # a file system without links
                os.replace(made, self._file())

    def _artifact_location(self) -> str:
        return (self._file().parent / "artifacts").as_uri()

    def _file(self) -> Path:
        # SQLAlchemy: sqlite:///relative and sqlite:////absolute
        return Path(unquote(urlsplit(self.uri).path[1:])).absolute()


def _is_logged_in(uri: str) -> bool:
    """Return whether the user has logged in to this server with `anemoi-training mlflow login`."""
    if urlsplit(uri).scheme not in ("http", "https"):
        return False
    from anemoi.utils.config import config_path
    from anemoi.utils.mlflow.auth import TokenAuth

    if not os.path.exists(config_path(TokenAuth._config_file)):
        return False
    return uri.rstrip("/") in (url for url, _ in TokenAuth.get_servers())


def _seconds(text: str) -> int:
    return int(text) if text.isdigit() else 0


def _sayable(items: list[Any]) -> list[Any]:
    """Return items for a call of the client; raise a RefusedError if it could not say one of them."""
    for item in items:
        try:
            item.to_proto()
        except (TypeError, ValueError) as problem:
            raise RefusedError(f"MLflow's client cannot send it: {one_line(str(problem), 100)}") from None
    return items


def _remote(run: Run) -> RemoteRun:
    info, data = run.info, run.data
    if not info.run_id:
        raise UnavailableError("the answer is not one of MLflow: it names no run", 1)
    used = bool(data.metrics or data.params) or info.status != "RUNNING"
    return RemoteRun(
        info.run_id, info.experiment_id, str(info.status), info.lifecycle_stage == "deleted", used, dict(data.tags)
    )
