"""The spool as a store of MLflow: what is logged with MLflow's own client, or its fluent functions, becomes records.

So everything in anemoi-training, and in a user's callbacks, that logs to MLflow works unchanged, and no call of it
leaves the machine.
"""

from __future__ import annotations

import logging
import shutil
import tempfile
import time
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, ClassVar, NoReturn

from mlflow.entities import (
    Experiment,
    FileInfo,
    LifecycleStage,
    Metric,
    Param,
    Run,
    RunData,
    RunInfo,
    RunStatus,
    RunTag,
)
from mlflow.exceptions import MlflowException
from mlflow.store.artifact.artifact_repo import ArtifactRepository
from mlflow.store.entities.paged_list import PagedList
from mlflow.store.tracking.abstract_store import AbstractStore

from anemoi_house.tracking.limits import MAX_PARAMS, MAX_TAGS, Over, fit, fit_key
from anemoi_house.tracking.plugin import SCHEME
from anemoi_house.tracking.redact import Redactor
from anemoi_house.tracking.spool import Spool, SpoolWriter, Summary, metric_value

LOGGER = logging.getLogger(__name__)
_EXPERIMENT = "0"
_TEXTS = {".txt", ".log", ".json", ".yaml", ".yml", ".md", ".csv", ".html", ".toml", ".ini", ".cfg", ".sh", ".py"}
_LARGEST_TEXT = 16 * 2**20


class Elsewhere:
    """Writer of the ranks that record nothing."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def put(self, record: dict[str, Any]) -> None:
        """Nothing."""

    def put_artifact(self, local: Path, path: str) -> None:
        """Nothing."""

    def flush(self, wait_s: float) -> bool:
        """Nothing to wait for."""
        return True

    def close(self, wait_s: float) -> None:
        """Nothing to let go of."""


class SpoolStore(AbstractStore):
    """MLflow's tracking store on the spool of one run.

    Parameters
    ----------
    writer : SpoolWriter or Elsewhere
        Where the records go.
    summary : Summary
        What the run has said before, if this is a restart.
    redactor : Redactor
        Takes secrets out of all text.
    """

    _open: ClassVar[dict[str, SpoolStore]] = {}
    _used: ClassVar[set[str]] = set()

    def __init__(self, writer: SpoolWriter | Elsewhere, summary: Summary, redactor: Redactor) -> None:
        super().__init__()
        self.writer = writer
        self.run = summary
        self.redactor = redactor
        self._told: set[tuple[str, str]] = set()
        self._keys: dict[str, str] = {}
        self.uri = f"{SCHEME}://{writer.folder.resolve()}"
        """Address of the store, for MLflow's client."""
        if self.uri in self._used:  # opened again: MLflow keeps the store that it was given for an address
            self.uri += f"?{len(self._used)}"
        self._used.add(self.uri)
        self._open[self.uri.partition("?")[0]] = self

    @classmethod
    def of(cls, uri: str) -> SpoolStore:
        """The store at an address; the process that has made it is the only one that can use it."""
        with suppress(KeyError):
            return cls._open[uri.partition("?")[0]]
        raise MlflowException(f"{uri} is the spool of a run that does not run in this process: see anemoi-house sync.")

    def close(self, wait_s: float) -> None:
        """Write what is left, and let go of the spool."""
        self._open.pop(self.uri.partition("?")[0], None)
        self.writer.close(wait_s)

    # What is logged

    def put(self, record: dict[str, Any]) -> None:
        """Append a record, and take it into account."""
        self.run.add(record)
        self.writer.put(record)

    def log_rows(self, rows: Iterable[tuple[str, float, int, int]]) -> None:
        """Record metrics: rows of key, value, time in ms and step."""
        fitting = []
        for key, value, at, step in rows:
            if key not in self._keys:
                self._keys[key], over = fit_key("metric", key)
                self._tell(over)
            fitting.append([self._keys[key], metric_value(value), at, step])
        if fitting:
            self.put({"kind": "metrics", "rows": fitting})

    def log_params(self, params: dict[str, Any]) -> None:
        """Record parameters; each keeps its first value."""
        self._fit("param", params, self.run.params, MAX_PARAMS)

    def set_tags(self, tags: dict[str, Any]) -> None:
        """Record tags."""
        self._fit("tag", tags, self.run.tags, MAX_TAGS)

    def log_batch(
        self, run_id: str, metrics: Sequence[Metric], params: Sequence[Param], tags: Sequence[RunTag]
    ) -> None:
        """As in MLflow."""
        if metrics:
            self.log_rows((metric.key, metric.value, metric.timestamp, metric.step) for metric in metrics)
        if params:
            self.log_params({param.key: param.value for param in params})
        if tags:
            self.set_tags({tag.key: tag.value for tag in tags})

    def log_metric(self, run_id: str, metric: Metric) -> None:
        """As in MLflow."""
        self.log_batch(run_id, [metric], [], [])

    def log_param(self, run_id: str, param: Param) -> None:
        """As in MLflow."""
        self.log_params({param.key: param.value})

    def set_tag(self, run_id: str, tag: RunTag) -> None:
        """As in MLflow."""
        self.set_tags({tag.key: tag.value})

    def log_artifact(self, local: Path, path: str) -> None:
        """Copy a file into the spool, without secrets where it is a text; what the disk refuses is told in one line."""
        try:
            if local.suffix.lower() in _TEXTS and local.stat().st_size <= _LARGEST_TEXT:
                text = local.read_text(errors="surrogateescape")
                clean = self.redactor.text(text)
                if clean != text:
                    with tempfile.NamedTemporaryFile("w", suffix=local.suffix, errors="surrogateescape") as scrubbed:
                        scrubbed.write(clean)
                        scrubbed.flush()
                        self.writer.put_artifact(Path(scrubbed.name), path)
                    return
            self.writer.put_artifact(local, path)
        except OSError as refused:
            self._tell([Over("artifact", path, str(local), refused.strerror or str(refused))])

    # What is asked

    def get_experiment(self, experiment_id: str) -> Experiment:
        """The experiment that the run is to be part of."""
        name = self.run.experiment
        return Experiment(_EXPERIMENT, name, self.uri, LifecycleStage.ACTIVE, tags=[])

    def get_experiment_by_name(self, experiment_name: str) -> Experiment:
        """As `get_experiment`: the spool knows of no other."""
        return self.get_experiment(_EXPERIMENT)

    def create_experiment(self, name: str, artifact_location: str | None = None, tags: Any = None) -> str:
        """The experiment is made at the server when the run is."""
        return _EXPERIMENT

    def get_run(self, run_id: str) -> Run:
        """The run as far as it is recorded."""
        run = self.run
        info = RunInfo(
            run_id=run.run_id,
            experiment_id=_EXPERIMENT,
            user_id=run.tags.get("mlflow.user", ""),
            status=run.status,
            start_time=run.started,
            end_time=run.ended,
            lifecycle_stage=LifecycleStage.ACTIVE,
            artifact_uri=self.uri,
            run_name=run.name,
        )
        data = RunData(
            metrics=[Metric(key, value, run.last or 0, 0) for key, value in run.metrics.items()],
            params=[Param(key, value) for key, value in run.params.items()],
            tags=[RunTag(key, value) for key, value in run.tags.items()],
        )
        return Run(info, data)

    def get_metric_history(
        self, run_id: str, metric_key: str, max_results: int | None = None, page_token: str | None = None
    ) -> PagedList[Metric]:
        """All rows of a metric, in the order in which they were logged."""
        self.writer.flush(1.0)
        rows = Spool(self.writer.folder).metrics(metric_key)[metric_key]
        return PagedList([Metric(metric_key, value, at, step) for value, at, step in rows], None)

    def update_run_info(self, run_id: str, run_status: int, end_time: int | None, run_name: str | None) -> RunInfo:
        """Record the end of the run, or that it goes on."""
        if end_time is not None:
            self.put({"kind": "end", "t": end_time, "status": RunStatus.to_string(run_status)})
        return self.get_run(run_id).info

    def _search_runs(self, *_: Any, **__: Any) -> tuple[list[Run], None]:
        return [self.get_run(self.run.run_id)], None

    def search_experiments(self, *_: Any, **__: Any) -> PagedList[Experiment]:
        """The one experiment."""
        return PagedList([self.get_experiment(_EXPERIMENT)], None)

    def search_logged_models(self, *_: Any, **__: Any) -> PagedList[Any]:
        """None: MLflow asks for them whenever it lists artifacts."""
        return PagedList([], None)

    def create_run(self, *_: Any, **__: Any) -> NoReturn:
        """Not in a spool, which is that of one run."""
        self._refuse("make a further run")

    def delete_experiment(self, experiment_id: str) -> NoReturn:
        """Not in a spool."""
        self._refuse("delete an experiment")

    def restore_experiment(self, experiment_id: str) -> NoReturn:
        """Not in a spool."""
        self._refuse("restore an experiment")

    def rename_experiment(self, experiment_id: str, new_name: str) -> NoReturn:
        """Not in a spool."""
        self._refuse("rename an experiment")

    def delete_run(self, run_id: str) -> NoReturn:
        """Not in a spool."""
        self._refuse("delete a run")

    def restore_run(self, run_id: str) -> NoReturn:
        """Not in a spool."""
        self._refuse("restore a run")

    def log_inputs(self, run_id: str, datasets: Any = None, models: Any = None) -> None:
        """Datasets become tags: not every server has a place for them."""
        for number, each in enumerate(datasets or []):
            self.set_tags({f"dataset.{number}": f"{each.dataset.name} {each.dataset.source}"})

    def link_traces_to_run(self, trace_ids: list[str], run_id: str) -> NoReturn:
        """Not in a spool."""
        self._refuse("keep traces")

    def _refuse(self, what: str) -> NoReturn:
        raise MlflowException(f"The spool of a training cannot {what}: do so at the server.")

    def _fit(self, what: str, new: dict[str, Any], present: dict[str, str], most: int) -> None:
        clean = {key: self.redactor.text(str(value)) for key, value in new.items()}
        fitting, over = fit(what, self.redactor.settings(clean), present, most)
        self._tell(over)
        if fitting:
            self.put({"kind": f"{what}s", "values": fitting})

    def _tell(self, over: Iterable[Over]) -> None:
        """Record what went over a limit, and say it once."""
        for each in over:
            if (each.what, each.key) not in self._told:
                self._told.add((each.what, each.key))
                LOGGER.warning("Tracking: %s %s: %s; what is left out is in over_limits.json.", *each[:2], each.why)
                self.put({"kind": "over", "t": int(time.time() * 1000), **each._asdict()})


class SpoolArtifacts(ArtifactRepository):
    """Artifacts of a run in its spool: to log further ones, and to read those that are there."""

    def __init__(self, artifact_uri: str, **settings: Any) -> None:
        super().__init__(artifact_uri, **settings)
        self._uri = artifact_uri

    @property
    def _store(self) -> SpoolStore:
        # Looked up anew: MLflow keeps this repository for a run that another logger may go on with.
        return SpoolStore.of(self._uri)

    def log_artifact(self, local_file: str, artifact_path: str | None = None) -> None:
        """As in MLflow."""
        local = Path(local_file)
        self._store.log_artifact(local, f"{artifact_path}/{local.name}" if artifact_path else local.name)

    def log_artifacts(self, local_dir: str, artifact_path: str | None = None) -> None:
        """As in MLflow."""
        root = Path(local_dir)
        for local in sorted(path for path in root.rglob("*") if path.is_file()):
            name = local.relative_to(root).as_posix()
            self._store.log_artifact(local, f"{artifact_path}/{name}" if artifact_path else name)

    def list_artifacts(self, path: str | None = None) -> list[FileInfo]:
        """Files and folders below a path."""
        below = f"{path}/" if path else ""
        found: dict[str, FileInfo] = {}
        for name, record in self._recorded().items():
            if name.startswith(below):
                first, *deeper = name[len(below) :].split("/")
                found[first] = FileInfo(f"{below}{first}", bool(deeper), None if deeper else record["size"])
        return [found[name] for name in sorted(found)]

    def _download_file(self, remote_file_path: str, local_path: str) -> None:
        record = self._recorded().get(remote_file_path)
        if record is None:
            raise MlflowException(f"The run has no artifact {remote_file_path}.")
        shutil.copyfile(self._store.writer.folder / record["file"], local_path)

    def _recorded(self) -> dict[str, dict[str, Any]]:
        """Records of the artifacts by name; the last one of each name."""
        self._store.writer.flush(1.0)
        records = (record.data for record in Spool(self._store.writer.folder).records())
        return {record["path"]: record for record in records if record is not None and record["kind"] == "artifact"}
