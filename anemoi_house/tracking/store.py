"""The spool as a tracking store of MLflow: what MLflow's client or its functions log becomes records.

Everything in anemoi-training and in a user's callbacks that logs to MLflow works unchanged, and no call leaves the
machine.
"""

from __future__ import annotations

import logging
import shutil
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, ClassVar

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

from anemoi_house.tracking.copies import Clean, Failed
from anemoi_house.tracking.limits import MAX_PARAMS, MAX_TAGS, OverLimit, fit, fit_key
from anemoi_house.tracking.records import metric_value, whole_number
from anemoi_house.tracking.redact import Redactor
from anemoi_house.tracking.servers.failures import one_line
from anemoi_house.tracking.spool import SCHEME, Spool, Summary
from anemoi_house.tracking.writer import SpoolWriter
from anemoi_house.words import counted

LOGGER = logging.getLogger(__name__)
_EXPERIMENT = "0"
_NO_RUN = "none"
_OF_A_RUN = {"mlflow.parentRunId", "mlflow.runName"}
_READ_WAIT_S = 10.0
_WARNINGS = 3
"""Lines about parameters, tags, metrics or artifacts over a limit, of each; more are only in `over_limits.json`."""


def _skipped(what: str) -> Callable[..., None]:
    """Return a method that reports in one line that it does nothing: only the server can."""

    def skip(*_: Any, **__: Any) -> None:
        LOGGER.warning("Tracking: the record of a training cannot %s; skipped. Do it on the server.", what)

    return skip


class NullWriter:
    """Writer of the ranks that record nothing."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def put(self, record: dict[str, Any]) -> None:
        """Do nothing."""

    def put_artifact(self, local: Path, path: str, clean: Clean, failed: Failed) -> None:
        """Do nothing."""

    def flush(self, wait_s: float) -> bool:
        """Return True: nothing is waiting."""
        return True

    def close(self, wait_s: float) -> None:
        """Do nothing."""


class SpoolStore(AbstractStore):
    """MLflow's tracking store on the spool of one run.

    Parameters
    ----------
    writer : SpoolWriter or NullWriter
        Where the records go.
    summary : Summary
        What the run has logged before, if this is a restart.
    redactor : Redactor
        Removes secrets from all text.
    """

    _open: ClassVar[dict[str, SpoolStore]] = {}
    _used: ClassVar[set[str]] = set()

    def __init__(self, writer: SpoolWriter | NullWriter, summary: Summary, redactor: Redactor) -> None:
        super().__init__()
        self.writer = writer
        self.run = summary
        self.redactor = redactor
        self._reported: set[tuple[str, str]] = set()
        self._warned: Counter[str] = Counter()
        self._keys: dict[str, str] = {}
        self._step: int | None = None
        self._at_step: set[tuple[Any, ...]] = set()
        self._started = 0
        self._unrecorded: Counter[str] = Counter()
        self.lacks = ""
        """What the record lacks, in words; empty if it has all that was logged."""
        self.uri = f"{SCHEME}://{writer.folder.resolve()}"
        """Address of the store, for MLflow's client."""
        if self.uri in self._used:  # opened again: MLflow caches the store of an address
            self.uri += f"?{len(self._used)}"
        self._used.add(self.uri)
        self._open[self.uri.partition("?")[0]] = self

    @classmethod
    def of(cls, uri: str) -> SpoolStore:
        """Return the store at an address; it exists only in the process that created it."""
        with suppress(KeyError):
            return cls._open[uri.partition("?")[0]]
        raise MlflowException(f"{uri}: this run is not recorded by this process. Send it with anemoi-house sync.")

    def close(self, wait_s: float) -> None:
        """Write the remaining records, and release the spool."""
        self._open.pop(self.uri.partition("?")[0], None)
        self.writer.close(wait_s)

    # Logging

    def put(self, record: dict[str, Any]) -> None:
        """Append a record, and add it to the summary."""
        self.run.add(record)
        self.writer.put(record)

    def log_rows(self, rows: Iterable[tuple[str, Any, Any, Any]], once: bool = False) -> None:
        """Record metrics.

        Parameters
        ----------
        rows : iterable of tuple
            Key, value, time in ms and step. A row that holds anything but numbers is left out, counted and reported.
        once : bool
            Whether all rows are of one step, and those that only repeat a value of it are left out.
        """
        fitting: list[tuple[Any, ...]] = []
        keys, last_at, last_step, time_ms, number = self._keys, self, self, 0, 0
        for key, value, at, step in rows:  # fast: there may be thousands of metrics in a step
            try:
                name = keys.get(key) or self._key(key)
                held = metric_value(value)
                if at is not last_at or step is not last_step:
                    time_ms, number = whole_number(at), whole_number(step)
                    last_at, last_step = at, step
            except Exception as failure:  # a callback may pass anything
                self._leave_out(str(key), value, failure)
                continue
            fitting.append((name, held, time_ms, number))
        if once:
            fitting = self._without_repetitions(fitting, number)
        if fitting:
            self.put({"kind": "metrics", "rows": fitting})

    def _without_repetitions(self, rows: list[tuple[Any, ...]], step: int) -> list[tuple[Any, ...]]:
        if step != self._step:
            self._step, self._at_step = step, {row[:2] for row in rows}
            return rows
        new = [row for row in rows if row[:2] not in self._at_step]
        self._at_step.update(row[:2] for row in new)
        return new

    def _key(self, given: str) -> str:
        """Return the key under which a metric is recorded."""
        key, over = fit_key("metric", str(given))
        self._report(over)
        self._keys[given] = key
        return key

    def _leave_out(self, key: str, value: Any, failure: Exception) -> None:
        self._unrecorded[key] += 1
        why = f"a value cannot be recorded: {type(value).__name__}, {one_line(str(failure))}"
        self._report([OverLimit("metric", key, "", why)])

    def report_unrecorded(self) -> None:
        """Record and log how many values of metrics were left out since the last report."""
        if not self._unrecorded:
            return
        for key, number in self._unrecorded.items():
            over = OverLimit("metric", key, "", f"{counted(number, 'value')} could not be recorded")
            self.put({"kind": "over", "t": int(time.time() * 1000), **over._asdict()})
        total, metrics = self._unrecorded.total(), len(self._unrecorded)
        LOGGER.warning("Tracking: %s of %s could not be recorded; see over_limits.json.",
                       counted(total, "value"), counted(metrics, "metric"))  # fmt: skip
        self._unrecorded.clear()

    def log_params(self, params: dict[str, Any]) -> None:
        """Record parameters; each keeps its first value."""
        self._fit("param", params, self.run.params, MAX_PARAMS)

    def set_tags(self, tags: dict[str, Any]) -> None:
        """Record tags."""
        self._fit("tag", tags, self.run.tags, MAX_TAGS)

    def log_batch(
        self, run_id: str, metrics: Sequence[Metric], params: Sequence[Param], tags: Sequence[RunTag]
    ) -> None:
        """Record metrics, parameters and tags."""
        if metrics:
            self.log_rows((metric.key, metric.value, metric.timestamp, metric.step) for metric in metrics)
        if params:
            self.log_params({param.key: param.value for param in params})
        if tags:
            self.set_tags({tag.key: tag.value for tag in tags})

    def delete_tag(self, run_id: str, key: str) -> None:
        """Empty a tag: a record is only appended to."""
        self.set_tags({key: ""})

    def log_artifact(self, local: Path, path: str) -> None:
        """Copy a file into the spool, without secrets if it is a text; report in one line what cannot be copied."""

        def failed(why: str) -> None:
            self._report([OverLimit("artifact", path, str(local), why)])

        try:
            self.writer.put_artifact(local, path, self.redactor.pieces, failed)
            self.run.artifacts += 1
        except (OSError, ValueError) as refused:
            failed(getattr(refused, "strerror", None) or str(refused))

    # Reading

    def get_experiment(self, experiment_id: str) -> Experiment:
        """Return the experiment of the run."""
        name = self.run.experiment
        return Experiment(_EXPERIMENT, name, self.uri, LifecycleStage.ACTIVE, tags=[])

    def get_experiment_by_name(self, experiment_name: str) -> Experiment:
        """Return the experiment of the run: the spool has no other."""
        return self.get_experiment(_EXPERIMENT)

    def create_experiment(self, name: str, artifact_location: str | None = None, tags: Any = None) -> str:
        """Do nothing: the sender creates the experiment together with the run."""
        return _EXPERIMENT

    def get_run(self, run_id: str) -> Run:
        """Return the run as recorded so far."""
        run = self.run
        info = RunInfo(
            run_id=run.run_id or _NO_RUN,
            experiment_id=_EXPERIMENT,
            user_id=run.tags.get("mlflow.user", ""),
            status=run.status,
            start_time=run.started or 0,
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
        """Return all rows of a metric in the order in which they were logged."""
        self.writer.flush(_READ_WAIT_S)
        rows = Spool(self.writer.folder).metrics(metric_key)[metric_key]
        return PagedList([Metric(metric_key, value, at, step) for value, at, step in rows], None)

    def create_run(
        self, experiment_id: str, user_id: str, start_time: int | None, tags: Sequence[RunTag] | None, run_name: str
    ) -> Run:
        """Return the run of the training: MLflow's functions, which start a run of their own, log to this one."""
        self._started += 1
        self.set_tags({tag.key: tag.value for tag in tags or () if tag.key not in _OF_A_RUN})
        return self.get_run(self.run.run_id)

    def update_run_info(self, run_id: str, run_status: int, end_time: int | None, run_name: str | None) -> RunInfo:
        """Record the end of the run; where one of MLflow's functions has started it, the training goes on."""
        if run_status == RunStatus.RUNNING:
            self._started += 1
        elif end_time is not None and self._started:
            self._started -= 1
        elif end_time is not None:
            self.put({"kind": "end", "t": end_time, "status": RunStatus.to_string(run_status)})
        return self.get_run(run_id).info

    def _search_runs(self, *_: Any, **__: Any) -> tuple[list[Run], None]:
        return [self.get_run(self.run.run_id)], None

    def search_experiments(self, *_: Any, **__: Any) -> PagedList[Experiment]:
        """Return the one experiment."""
        return PagedList([self.get_experiment(_EXPERIMENT)], None)

    def search_logged_models(self, *_: Any, **__: Any) -> PagedList[Any]:
        """Return none; MLflow asks for them whenever it lists artifacts."""
        return PagedList([], None)

    def log_inputs(self, run_id: str, datasets: Any = None, models: Any = None) -> None:
        """Record datasets as tags: not every server stores them otherwise."""
        for number, each in enumerate(datasets or []):
            self.set_tags({f"dataset.{number}": f"{each.dataset.name} {each.dataset.source}"})

    delete_experiment = _skipped("delete an experiment")
    restore_experiment = _skipped("restore an experiment")
    rename_experiment = _skipped("rename an experiment")
    set_experiment_tag = _skipped("tag an experiment")
    delete_experiment_tag = _skipped("tag an experiment")
    delete_run = _skipped("delete a run")
    restore_run = _skipped("restore a run")
    log_outputs = _skipped("keep models")
    link_traces_to_run = _skipped("keep traces")

    def _fit(self, what: str, new: dict[str, Any], present: dict[str, str], most: int) -> None:
        clean = {key: self.redactor.text(str(value)) for key, value in new.items()}
        fitting, over = fit(what, self.redactor.settings(clean), present, most)
        self._report(over)
        if fitting:
            self.put({"kind": f"{what}s", "values": fitting})

    def _report(self, over: Iterable[OverLimit]) -> None:
        """Record what went over a limit, each key once and each artifact, and log it in one line."""
        by_name = {(each.what, each.key): each for each in over}
        new = [each for name, each in by_name.items() if each.what == "artifact" or name not in self._reported]
        if not new:
            return
        self._reported |= by_name.keys()
        self.lacks = "what over_limits.json lists"
        for each in new:
            self.put({"kind": "over", "t": int(time.time() * 1000), **each._asdict()})
        first = new[0]
        self._warned[first.what] += 1
        if self._warned[first.what] <= _WARNINGS:
            others = f" and {counted(len(new) - 1, 'other')}" if len(new) > 1 else ""
            further = f" Further {first.what}s are only listed there." * (self._warned[first.what] == _WARNINGS)
            LOGGER.warning("Tracking: %s %s%s: %s; see over_limits.json.%s", *first[:2], others, first.why, further)


class SpoolArtifacts(ArtifactRepository):
    """Artifacts of a run in its spool, to log and to read."""

    def __init__(self, artifact_uri: str, **settings: Any) -> None:
        super().__init__(artifact_uri, **settings)
        self._uri = artifact_uri

    @property
    def _store(self) -> SpoolStore:
        # Looked up each time: MLflow caches this repository, and another logger may continue the run.
        return SpoolStore.of(self._uri)

    def log_artifact(self, local_file: str, artifact_path: str | None = None) -> None:
        """Copy a file into the spool."""
        local = Path(local_file)
        self._store.log_artifact(local, f"{artifact_path}/{local.name}" if artifact_path else local.name)

    def log_artifacts(self, local_dir: str, artifact_path: str | None = None) -> None:
        """Copy the files below a folder into the spool."""
        root = Path(local_dir)
        for local in sorted(path for path in root.rglob("*") if path.is_file()):
            name = local.relative_to(root).as_posix()
            self._store.log_artifact(local, f"{artifact_path}/{name}" if artifact_path else name)

    def list_artifacts(self, path: str | None = None) -> list[FileInfo]:
        """Return the files and folders in a folder of artifacts."""
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
            raise MlflowException(f"{remote_file_path}: the run has no such artifact.")
        shutil.copyfile(self._store.writer.folder / record["file"], local_path)

    def _recorded(self) -> dict[str, dict[str, Any]]:
        """Return the last record of each artifact by its name."""
        self._store.writer.flush(_READ_WAIT_S)
        if isinstance(self._store.writer, NullWriter):
            return {}
        records = (record.data for record in Spool(self._store.writer.folder).records())
        return {record["path"]: record for record in records if record is not None and record["kind"] == "artifact"}
