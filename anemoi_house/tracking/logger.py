"""Loggers for anemoi-training that cannot harm a training: they record on disk, and another process sends.

They are the stock logger with the spool as its store (`anemoi_house.tracking.store`), so everything that logs to the
stock one works with these. No method waits for a server, or raises.
"""

from __future__ import annotations

import atexit
import json
import logging
import os
import socket
import sys
import time
from argparse import Namespace
from collections.abc import Iterable, Mapping, MutableMapping
from itertools import repeat
from pathlib import Path
from typing import Any

import mlflow
import yaml
from anemoi.training.diagnostics.mlflow.logger import BaseAnemoiMLflowLogger
from anemoi.utils.mlflow.auth import NoAuth
from mlflow.tracking import MlflowClient
from mlflow.tracking.context.registry import resolve_tags
from omegaconf import OmegaConf
from pytorch_lightning.callbacks import Checkpoint
from pytorch_lightning.loggers.logger import rank_zero_experiment
from pytorch_lightning.utilities.exceptions import SIGTERMException
from pytorch_lightning.utilities.rank_zero import rank_zero_only

from anemoi_house import __version__
from anemoi_house.errors import HouseError
from anemoi_house.files import write_whole
from anemoi_house.tracking.harmless import HarmlessClient, harmless
from anemoi_house.tracking.identity import local_run_id, new_run_id
from anemoi_house.tracking.limits import chosen
from anemoi_house.tracking.metric_names import metric_name
from anemoi_house.tracking.redact import Redactor
from anemoi_house.tracking.sender_process import SenderProcess
from anemoi_house.tracking.servers.azure import check_settings
from anemoi_house.tracking.servers.connect import check_uri
from anemoi_house.tracking.spool import FOLDER, Spool, Summary
from anemoi_house.tracking.store import NullWriter, SpoolStore
from anemoi_house.tracking.terminal_capture import TerminalCapture
from anemoi_house.tracking.writer import SpoolWriter
from anemoi_house.upstream.errors import CommandError
from anemoi_house.words import counted

LOGGER = logging.getLogger(__name__)

FINISH_WAIT_S = 8.0
INTERRUPTED_WAIT_S = 2.0
"""Longest wait for the server after an interrupt or SIGTERM."""
WRITE_WAIT_S = 5.0
"""Longest wait for the disk at the end."""
COPY_WAIT_S = 600.0
"""Longest wait at the end until artifacts are copied."""


class SpooledMLflowLogger(BaseAnemoiMLflowLogger):
    """Logger that records a run in a spool; a process next to the training sends it to an MLflow server.

    Parameters
    ----------
    save_dir : str
        Folder of the spools, and of the store in a file if no server is named.
    tracking_uri : str, optional
        Address of the server: `http://`, `https://`, or `sqlite:///` for a file. By default the file `mlflow.db` in
        `save_dir`.
    run_id : str, optional
        Run to continue: its id here, or the one that a server has given it.
    fork_run_id : str, optional
        Run from which the new one is forked.
    on_resume_create_child : bool
        Whether a restart becomes a new run, a child of the one that it continues, as in the stock logger. By default it
        continues the same run.
    offline : bool
        Whether to record only; `anemoi-house sync` sends the run later.
    params : list of str
        Settings that become parameters of the run: dotted keys, branches, or shell patterns. All settings are in the
        artifact `config.yaml`.
    finish_wait_s : float
        Longest wait at the end until the rest is sent.
    log_hyperparams, system, terminal : bool
        Whether to record parameters, the machine's load, and the terminal output.
    experiment_name, run_name, project_name, prefix, log_model, authentication : Any
        As in the stock logger. `authentication` is that of ECMWF's servers.
    expand_hyperparams, max_params_length, http_max_retries : Any
        Of the stock logger, without effect here: `params` selects parameters, and unsent records are kept.

    Raises
    ------
    HouseError
        Before the training starts: the address is invalid, or the folder cannot be written to.
    """

    def __init__(
        self,
        save_dir: str,
        *,
        tracking_uri: str | None = None,
        run_id: str | None = None,
        fork_run_id: str | None = None,
        on_resume_create_child: bool = False,
        offline: bool = False,
        params: list[str] | None = None,
        finish_wait_s: float = FINISH_WAIT_S,
        experiment_name: str = "anemoi",
        project_name: str = "anemoi",
        run_name: str | None = None,
        prefix: str = "",
        log_model: Any = False,
        authentication: bool = False,
        log_hyperparams: bool = True,
        system: bool = True,
        terminal: bool = True,
        expand_hyperparams: list[str] | None = None,
        max_params_length: int | None = None,
        http_max_retries: int | None = None,
    ) -> None:
        environ = dict(os.environ)  # before MLflow and the stock logger write their settings into it
        self._params = list(params or [])
        self._finish_wait_s = finish_wait_s
        self._config_logged = False
        self._terminal: TerminalCapture | None = None
        self._sender: SenderProcess | None = None
        self._ended_after: int | None = None
        folder = Path(save_dir).resolve()
        self._spools = folder / FOLDER
        try:
            target = {**self._address(folder, tracking_uri, environ), "authentication": bool(authentication)}
            store = self._open(folder, run_id, fork_run_id, on_resume_create_child, experiment_name, run_name)
            if isinstance(store.writer, SpoolWriter):  # offline too: a later sync needs it
                self._write_target(target, store.writer.folder)
        except HouseError as mistake:
            raise CommandError(str(mistake)) from None
        self._store = store
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")  # it would open connections from the training
        super().__init__(
            experiment_name=experiment_name,
            project_name=project_name,
            run_name=store.run.name,
            tracking_uri=store.uri,
            save_dir=None,
            log_model=log_model,
            prefix=prefix,
            run_id=store.run.run_id or None,
            authentication=False,
            system=system,
            terminal=terminal,
            log_hyperparams=log_hyperparams,
            max_params_length=max_params_length or 0,
            http_max_retries=1,
        )
        local = local_run_id(self._spools, run_id) if run_id else None
        forked = local_run_id(self._spools, fork_run_id) if fork_run_id else None
        # Checkpoint folders have local ids; the stock trainer uses these two attributes when a server has other ids.
        self._parent_run_server2server = local if local != run_id else None  # type: ignore[assignment]
        self._fork_run_server2server = forked if forked != fork_run_id else None  # type: ignore[assignment]
        self._mlflow_client = HarmlessClient(store.uri)
        _set_tracking_uri_here(store.uri)  # on all ranks: no function of MLflow may wait for a server
        if isinstance(store.writer, SpoolWriter):
            self._begin(project_name)
            if not offline:
                self._sender = SenderProcess(store.writer.folder, environ, self._log)
                self._sender.start()
            atexit.register(self._at_exit)

    # What the trainer asks of the stock logger

    @property
    @rank_zero_experiment
    def experiment(self) -> MlflowClient:
        """Client of MLflow on the spool; on ranks above 0 one that does nothing."""
        if not self._initialized:
            self._experiment_id = self._store.get_experiment_by_name("").experiment_id
            self._initialized = True
        return self._mlflow_client

    @property
    def run_id(self) -> str | None:
        """Id of the run, on every rank."""
        return self._run_id

    @rank_zero_only
    @harmless
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Record metrics; what only repeats a value of the same step, as Lightning does, is recorded once."""
        names: Iterable[str] = map(metric_name, metrics)
        if self._prefix:
            names = (f"{self._prefix}{self.LOGGER_JOIN_CHAR}{name}" for name in names)
        now = int(time.time() * 1000)
        self._store.log_rows(zip(names, metrics.values(), repeat(now), repeat(step or 0)), once=True)

    @rank_zero_only
    @harmless
    def log_hyperparams(self, params: dict[str, Any] | Namespace) -> None:
        """Record the selected settings as parameters, and all as the artifact `config.yaml`; once for each start."""
        if self._config_logged or not self._flag_log_hparams:
            return
        self._config_logged = True
        given = vars(params) if isinstance(params, Namespace) else params
        settings = self._store.redactor.settings(_plain(given.get("config") or given))
        found = chosen(settings, self._params)
        session = self._store.run.sessions - 1
        changed = [f"{key}: {self._store.run.params[key]} -> {value}" for key, value in found.items()
                   if self._store.run.params.get(key, value) != value]  # fmt: skip
        if changed:
            self._store.set_tags({f"restart_{session}_changed": "; ".join(changed)})
            found = {key: value for key, value in found.items() if key not in self._store.run.params}
        self._store.log_params(found)
        name = f"config.restart-{session}.yaml" if session else "config.yaml"
        self.experiment.log_text(self.run_id, yaml.safe_dump(settings, sort_keys=False, allow_unicode=True), name)

    @rank_zero_only
    @harmless
    def log_system_metrics(self) -> None:
        """Record the load of the machine, as the stock logger does."""
        super().log_system_metrics()
        mlflow.disable_system_metrics_logging()  # MLflow's functions would start a second monitor of the same run

    @rank_zero_only
    @harmless
    def log_terminal_output(self, artifact_save_dir: str | Path = "") -> None:
        """Record what is printed from here on."""
        redactor = self._store.redactor
        self._terminal = TerminalCapture(
            lambda text: self._store.put({"kind": "terminal", "text": redactor.text(text)})
        )
        self._terminal.start()

    @rank_zero_only
    @harmless
    def after_save_checkpoint(self, checkpoint_callback: Checkpoint) -> None:
        """Record a checkpoint as an artifact if `log_model` is set."""
        super().after_save_checkpoint(checkpoint_callback)

    @rank_zero_only
    @harmless
    def finalize(self, status: str = "success") -> None:
        """Record the end of the run, and wait a bounded time until the rest is sent."""
        interrupted = isinstance(sys.exc_info()[1], KeyboardInterrupt | SIGTERMException)
        ended = "FINISHED" if status in ("success", "finished") else "FAILED"
        self._end("KILLED" if interrupted else ended, brief=interrupted)

    def _init_authentication(self) -> None:
        self.auth = NoAuth()

    def _get_mlflow_run_params(self, *_: Any, **__: Any) -> tuple[str | None, str, dict[str, Any]]:
        return self._store.run.run_id, self._store.run.name, {}

    # Ours

    def _address(self, folder: Path, tracking_uri: str | None, environ: MutableMapping[str, str]) -> dict[str, Any]:
        """Return the server in the form of `target.json`."""
        uri = tracking_uri or f"sqlite:///{folder / 'mlflow.db'}"
        check_uri(uri)
        return {"uri": uri, "aml": None}

    def _open(
        self,
        folder: Path,
        run_id: str | None,
        fork_run_id: str | None,
        create_child: bool,
        experiment: str,
        run_name: str | None,
    ) -> SpoolStore:
        """Return the store of the run; on rank 0, with its writer and the start recorded."""
        rank = int(getattr(rank_zero_only, "rank", None) or 0)
        local = local_run_id(self._spools, run_id) if run_id else None
        same_run = local is not None and not create_child
        own = local if same_run else new_run_id(rank, os.environ)
        if rank or own is None:
            return SpoolStore(NullWriter(self._spools / (own or "-")), Summary(own or "", run_name or ""), Redactor())
        writer = SpoolWriter(self._spools / own, self._log)
        before = Spool(writer.folder).summary()
        parent = Spool(self._spools / local) if local and not same_run else None
        name = before.name or (parent.summary().name if parent and parent.records_path.exists() else "")
        start: dict[str, Any] = {
            "kind": "start",
            "t": int(time.time() * 1000),
            "session": before.sessions,
            "run_id": own,
            "run_name": name or run_name or own,
            "experiment": before.experiment or experiment,
            "parent": None if same_run else run_id,
            "fork_of": fork_run_id,
            # Created on the server before: by an Azure ML job, or by the stock logger.
            "server_run": own if not before.sessions and (same_run or own == os.environ.get("MLFLOW_RUN_ID")) else None,
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "version": __version__,
        }
        store = SpoolStore(writer, before, Redactor())
        store.put(start | {name: store.redactor.text(start[name]) for name in ("run_name", "experiment")})
        return store

    def _write_target(self, target: dict[str, Any], folder: Path) -> None:
        try:
            write_whole(folder / "target.json", json.dumps(target, indent=1).encode())
        except OSError as refused:
            raise HouseError(f"{folder}: cannot be written to ({refused.strerror}).") from None

    @harmless
    def _begin(self, project_name: str) -> None:
        """Record the stock tags, the command, and the jobs of SLURM."""
        program = os.environ.get("ANEMOI_TRAINING_CMD", sys.argv[0]).split("/")[-1]
        command = " ".join([program, *self._store.redactor.command(sys.argv[1:])])
        tags = {**resolve_tags({}), "projectName": project_name, "command": command}
        restarts = self._store.run.sessions - 1
        if restarts:
            tags |= {"resumedRun": "True", "restarts": str(restarts)}
        if "SLURM_JOB_ID" in os.environ:
            before = self._store.run.tags.get("SLURM_JOB_ID", "").split()
            tags["SLURM_JOB_ID"] = " ".join(dict.fromkeys([*before, os.environ["SLURM_JOB_ID"]]))
        self._store.set_tags(tags)

    def _end(self, status: str, *, brief: bool) -> None:
        run = self._store.run
        if run.ended is not None and self._ended_after == self._count():
            return
        monitors = getattr(self, "run_id_to_system_metrics_monitor", None)
        if monitors:
            monitors.pop(self.run_id).finish()
        if self._terminal is not None:
            self._terminal.stop()
            self._terminal = None
        self._store.report_unrecorded()
        self._store.writer.flush(WRITE_WAIT_S if brief else COPY_WAIT_S)
        self._store.put({"kind": "end", "t": int(time.time() * 1000), "status": status})
        self._ended_after = self._count()
        self._store.writer.flush(WRITE_WAIT_S)
        self._report_unsent(INTERRUPTED_WAIT_S if brief else self._finish_wait_s)

    def _report_unsent(self, wait_s: float) -> None:
        folder = self._store.writer.folder
        if self._sender is None:
            self._log(
                f"Run {self.run_id} is recorded in {folder}. Send it with: anemoi-house sync {folder}", logging.INFO
            )
            return
        state = self._sender.finish(wait_s)
        if state.complete:
            lacks = f", but for {self._store.lacks}" if self._store.lacks else ""
            self._log(f"Run {self.run_id} is complete at {Spool(folder).target()['uri']}{lacks}.", logging.INFO)
        else:
            self._log(
                f"Run {self.run_id}: {counted(state.left['records'], 'record')} with "
                f"{counted(state.left['rows'], 'metric row')} not sent ({state.error or 'there was no time'}). "
                f"{'' if self._store.lacks else 'They are kept. '}Send them with: anemoi-house sync {folder}"
            )

    def _count(self) -> int:
        """Return the number of things recorded so far, without terminal output."""
        run = self._store.run
        return run.rows + run.artifacts + len(run.params) + len(run.tags)

    @harmless
    def _at_exit(self) -> None:
        """End a run that has no end, or that has logged something after it, as a profiler does."""
        run = self._store.run
        if run.ended is None:
            self._end("FAILED", brief=True)
        elif self._ended_after != self._count():
            if self._sender is not None:
                self._sender.start()
            self._end(run.status, brief=False)
        self._store.close(WRITE_WAIT_S)

    def _log(self, line: str, level: int = logging.WARNING) -> None:
        LOGGER.log(level, "Tracking: %s", line)


class AzureMLflowLogger(SpooledMLflowLogger):
    """Logger for an Azure ML workspace, through `azureml-mlflow`, its client of MLflow.

    Parameters
    ----------
    save_dir : str
        Folder of the spools.
    aml_subscription_id, aml_resource_group, aml_workspace_name : str, optional
        The workspace, unless `tracking_uri` names it, or AZUREML_ARM_SUBSCRIPTION, AZUREML_ARM_RESOURCEGROUP and
        AZUREML_ARM_WORKSPACE_NAME do.
    identity : str
        How to sign in: `default` tries what the environment offers; `service_principal`, `managed` or `cli`.
    **settings : Any
        As for `SpooledMLflowLogger`; `tracking_uri` begins with `azureml://`.
    """

    def __init__(
        self,
        save_dir: str,
        *,
        aml_subscription_id: str | None = None,
        aml_resource_group: str | None = None,
        aml_workspace_name: str | None = None,
        identity: str = "default",
        **settings: Any,
    ) -> None:
        self._aml = {
            "subscription": aml_subscription_id,
            "resource_group": aml_resource_group,
            "workspace": aml_workspace_name,
            "identity": identity,
        }
        super().__init__(save_dir, **settings)

    def _address(self, folder: Path, tracking_uri: str | None, environ: MutableMapping[str, str]) -> dict[str, Any]:
        return check_settings(tracking_uri, self._aml, environ)


def _set_tracking_uri_here(uri: str) -> None:
    """Set the address for MLflow's functions in this process only; MLflow would pass it on to the other ranks."""
    variable = "MLFLOW_TRACKING_URI"
    before = os.environ.get(variable)
    mlflow.set_tracking_uri(uri)
    if before is None:
        os.environ.pop(variable, None)
    else:
        os.environ[variable] = before


def _plain(settings: Any) -> Any:
    """Return settings as plain dictionaries, lists, texts and numbers."""
    if OmegaConf.is_config(settings):
        settings = OmegaConf.to_container(settings, resolve=True, throw_on_missing=False)
    if hasattr(settings, "model_dump"):
        settings = settings.model_dump(by_alias=True)
    if isinstance(settings, Mapping):
        return {str(key): _plain(value) for key, value in settings.items()}
    if isinstance(settings, list | tuple | set):
        return [_plain(value) for value in settings]
    return settings if isinstance(settings, str | int | float | bool | type(None)) else str(settings)
