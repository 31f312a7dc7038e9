"""Loggers for anemoi-training that cannot hurt a training: everything is recorded on disk first, and sent by others.

They are the stock logger on the spool as its store (`anemoi_house.tracking.store`), so that whatever logs to the stock
one works with these. No method waits for a server, or fails.
"""

from __future__ import annotations

import atexit
import functools
import json
import logging
import os
import re
import socket
import sys
import time
from argparse import Namespace
from collections.abc import Callable, Mapping, MutableMapping
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
from anemoi_house.tracking.follower import Follower
from anemoi_house.tracking.identity import local_run_id, new_run_id
from anemoi_house.tracking.limits import chosen
from anemoi_house.tracking.redact import Redactor
from anemoi_house.tracking.servers.azure import check_settings
from anemoi_house.tracking.servers.mlflow import check_uri
from anemoi_house.tracking.spool import FOLDER, Spool, SpoolWriter, Summary, write_whole
from anemoi_house.tracking.store import Elsewhere, SpoolStore
from anemoi_house.tracking.terminal import Terminal
from anemoi_house.upstream.errors import CommandError

LOGGER = logging.getLogger(__name__)

FINISH_WAIT_S = 8.0
INTERRUPTED_WAIT_S = 2.0
"""Longest wait for the server when somebody has asked the training to go."""
WRITE_WAIT_S = 5.0
"""Longest wait for the disk at the end."""

_NAMES = (
    (re.compile(r"^train_\w+_loss(_step)?$"), "train/loss"),
    (re.compile(r"^train_\w+_loss_epoch$"), "train/loss_epoch"),
    (re.compile(r"^val_\w+_loss_step$"), "val/loss_step"),
    (re.compile(r"^val_\w+_loss(_epoch)?$"), "val/loss"),
    (re.compile(r"^val_(?:data_)?(\w+)_metric/(?:data/)?(.+?)/(\d+)(?:_epoch)?$"), r"val/\1/\2.step\3"),
    (re.compile(r"^val_(?:data_)?(\w+)_metric/(?:data/)?(.+?)(?:_epoch)?$"), r"val/\1/\2"),
    (re.compile(r"^lr-\w+$"), "learning_rate"),
)


@functools.lru_cache(maxsize=4096)
def metric_name(name: str) -> str:
    """Name under which a metric of anemoi-training is recorded.

    Dashboards group names by their part before the last slash: `train/loss`, `val/loss`,
    `val/mse_inner_ring/t_850.step1` (the number counts the steps ahead). Names of other kinds stay.
    """
    for pattern, instead in _NAMES:
        if pattern.match(name):
            return pattern.sub(instead, name)
    return name


def harmless(method: Callable[..., Any]) -> Callable[..., Any]:
    """The method, of which a failure is told in one line and goes no further."""

    @functools.wraps(method)
    def guarded(self: Any, *args: Any, **kwargs: Any) -> Any:
        try:
            return method(self, *args, **kwargs)
        except Exception as failure:  # nothing that tracking comes across may end a training
            reason = " ".join(str(failure).split())[:300] or type(failure).__name__
            LOGGER.warning("Tracking: %s failed and is left out: %s", method.__name__, Redactor().text(reason))
            return None

    return guarded


class HarmlessClient(MlflowClient):
    """MLflow's client, whose logging methods do not fail."""


_LOGGING = re.compile(r"log_(?!model|outputs)|set_tag$|delete_tag$|set_terminated$|update_run$")
for _name in filter(_LOGGING.match, dir(MlflowClient)):
    setattr(HarmlessClient, _name, harmless(getattr(MlflowClient, _name)))


class SpooledMLflowLogger(BaseAnemoiMLflowLogger):
    """Logger that records a run in a spool, which a process beside the training sends to an MLflow server.

    Parameters
    ----------
    save_dir : str
        Folder of the spools, and of the embedded store where no server is named.
    tracking_uri : str, optional
        Address of the server: `http://`, `https://`, or `sqlite:///` for a file. By default the file `mlflow.db` in
        `save_dir`.
    run_id : str, optional
        Run to go on with: its id here, or the one that a server has given it.
    fork_run_id : str, optional
        Run that the new one begins from.
    on_resume_create_child : bool
        Whether a restart becomes a run of its own below the one it goes on with, as in the stock logger, rather than a
        further part of the same run.
    offline : bool
        Whether to record alone: `anemoi-house sync` sends it when that is possible.
    params : list of str
        Settings that become parameters of the run: dotted keys, branches, or shell patterns. All settings are in the
        artifact `config.yaml`.
    finish_wait_s : float
        Longest wait at the end for the server to take the rest.
    log_hyperparams, system, terminal : bool
        Whether to record parameters, the machine's load, and the terminal output.
    experiment_name, run_name, project_name, prefix, log_model, authentication : Any
        As in the stock logger. `authentication` is that of ECMWF's servers.
    expand_hyperparams, max_params_length, http_max_retries : Any
        Of the stock logger, without effect here: parameters are those in `params`, and what cannot be sent is kept.

    Raises
    ------
    HouseError
        Before the training starts: an address that no client is for, or a folder that cannot be written to.
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
        environ = dict(os.environ)  # as it was: MLflow and the stock logger write their settings into it
        self._params = list(params or [])
        self._finish_wait_s = finish_wait_s
        self._told_config = False
        self._terminal: Terminal | None = None
        self._follower: Follower | None = None
        self._ended_after: int | None = None
        folder = Path(save_dir).resolve()
        self._spools = folder / FOLDER
        try:
            target = {**self._address(folder, tracking_uri, environ), "authentication": bool(authentication)}
            store = self._open(folder, run_id, fork_run_id, on_resume_create_child, experiment_name, run_name)
            if isinstance(store.writer, SpoolWriter):  # offline too: a later sync is to know where to
                self._send_to(target, store.writer.folder)
        except HouseError as mistake:
            raise CommandError(str(mistake)) from None
        self._store = store
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")  # it would be a connection of the training's own
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
        # Checkpoints are in folders of local ids: these two are where the stock trainer looks when the ids differ.
        self._parent_run_server2server = local if local != run_id else None  # type: ignore[assignment]
        self._fork_run_server2server = forked if forked != fork_run_id else None  # type: ignore[assignment]
        self._mlflow_client = HarmlessClient(store.uri)
        if isinstance(store.writer, SpoolWriter):
            self._begin(project_name)
            if not offline:
                self._follower = Follower(store.writer.folder, environ, self._tell)
                self._follower.start()
            atexit.register(self._at_exit)

    # What the stock logger is asked for

    @property
    @rank_zero_experiment
    def experiment(self) -> MlflowClient:
        """Client of MLflow on the spool; on other ranks than 0 one that does nothing."""
        if not self._initialized:
            _log_here(self._store.uri)
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
        """Record metrics; a metric once a step, as in the stock logger."""
        now, step = int(time.time() * 1000), step or 0
        rows = []
        for name, value in metrics.items():
            # Of the renamed one: Lightning gives a loss two names where it is both that of a step and of an epoch.
            key = metric_name(name)
            if (key, step) not in self._logged_metrics:
                self._logged_metrics.add((key, step))  # type: ignore[arg-type]
                rows.append(
                    (f"{self._prefix}{self.LOGGER_JOIN_CHAR}{key}" if self._prefix else key, float(value), now, step)
                )
        self._store.log_rows(rows)

    @rank_zero_only
    @harmless
    def log_hyperparams(self, params: dict[str, Any] | Namespace) -> None:
        """Record the chosen settings as parameters, and all of them as the artifact `config.yaml`; once a start."""
        if self._told_config or not self._flag_log_hparams:
            return
        self._told_config = True
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
        """Record the machine's load, as the stock logger does."""
        _ = self.experiment  # the stock monitor asks MLflow where to log to
        super().log_system_metrics()

    @rank_zero_only
    @harmless
    def log_terminal_output(self, artifact_save_dir: str | Path = "") -> None:
        """Record what is printed from now on."""
        redactor = self._store.redactor
        self._terminal = Terminal(lambda text: self._store.put({"kind": "terminal", "text": redactor.text(text)}))
        self._terminal.start()

    @rank_zero_only
    @harmless
    def after_save_checkpoint(self, checkpoint_callback: Checkpoint) -> None:
        """Record a checkpoint as an artifact where `log_model` asks for it."""
        super().after_save_checkpoint(checkpoint_callback)

    @rank_zero_only
    @harmless
    def finalize(self, status: str = "success") -> None:
        """Record the end, and give the process beside the training a bounded time to send the rest."""
        interrupted = isinstance(sys.exc_info()[1], KeyboardInterrupt | SIGTERMException)
        words = {"success": "FINISHED", "finished": "FINISHED"}
        self._end("KILLED" if interrupted else words.get(status, "FAILED"), brief=interrupted)

    def _init_authentication(self) -> None:
        self.auth = NoAuth()

    def _get_mlflow_run_params(self, *_: Any, **__: Any) -> tuple[str | None, str, dict[str, Any]]:
        return self._store.run.run_id, self._store.run.name, {}

    # What this one adds

    def _address(self, folder: Path, tracking_uri: str | None, environ: MutableMapping[str, str]) -> dict[str, Any]:
        """The server in the form in which `target.json` keeps it."""
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
        """Store of the run; on rank 0 with its writer, and the start recorded."""
        rank = int(getattr(rank_zero_only, "rank", None) or 0)
        local = local_run_id(self._spools, run_id) if run_id else None
        same_run = local is not None and not create_child
        own = local if same_run else new_run_id(rank, os.environ)
        if rank or own is None:
            return SpoolStore(Elsewhere(self._spools / (own or "-")), Summary(own or "", run_name or ""), Redactor())
        writer = SpoolWriter(self._spools / own, self._tell)
        before = Spool(writer.folder).summary()
        parent = Spool(self._spools / local) if local and not same_run else None
        name = before.name or (parent.summary().name if parent and parent.records_path.exists() else "")
        start = {
            "kind": "start",
            "t": int(time.time() * 1000),
            "session": before.sessions,
            "run_id": own,
            "run_name": name or run_name or own,
            "experiment": before.experiment or experiment,
            "parent": None if same_run else run_id,
            "fork_of": fork_run_id,
            # Made elsewhere: by an Azure ML job, or by the stock logger at a server.
            "server_run": own if not before.sessions and (same_run or own == os.environ.get("MLFLOW_RUN_ID")) else None,
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "version": __version__,
        }
        store = SpoolStore(writer, before, Redactor())
        store.put(start)
        return store

    def _send_to(self, target: dict[str, Any], folder: Path) -> None:
        try:
            write_whole(folder / "target.json", json.dumps(target, indent=1).encode())
        except OSError as refused:
            raise HouseError(f"{folder} cannot be written to ({refused.strerror}).") from None

    @harmless
    def _begin(self, project_name: str) -> None:
        """Record what stock tags say, who began the run, and where."""
        command = " ".join([os.environ.get("ANEMOI_TRAINING_CMD", sys.argv[0]).split("/")[-1], *sys.argv[1:]])
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
        self._store.put({"kind": "end", "t": int(time.time() * 1000), "status": status})
        self._ended_after = self._count()
        self._store.writer.flush(WRITE_WAIT_S)
        self._say_what_is_left(INTERRUPTED_WAIT_S if brief else self._finish_wait_s)

    def _say_what_is_left(self, wait_s: float) -> None:
        folder = self._store.writer.folder
        if self._follower is None:
            self._tell(
                f"Run {self.run_id} is recorded in {folder}; send it with: anemoi-house sync {folder}", logging.INFO
            )
            return
        left = self._follower.finish(wait_s)
        if left.complete:
            self._tell(f"All of run {self.run_id} is at {Spool(folder).target()['uri']}.", logging.INFO)
        else:
            self._tell(
                f"{left.records} records of run {self.run_id}, {left.rows} of them metric rows, are still to be sent "
                f"({left.error or 'there was no time'}). Nothing is lost; send them with: anemoi-house sync {folder}"
            )

    def _count(self) -> int:
        """What is recorded so far, but for terminal output."""
        run = self._store.run
        return run.rows + run.artifacts + len(run.params) + len(run.tags)

    @harmless
    def _at_exit(self) -> None:
        """End a run whose training never came to its end, or that has said more after it, as a profiler does."""
        run = self._store.run
        if run.ended is None:
            self._end("FAILED", brief=True)
        elif self._ended_after != self._count():
            if self._follower is not None:
                self._follower.start()
            self._end(run.status, brief=False)
        self._store.close(WRITE_WAIT_S)

    def _tell(self, line: str, level: int = logging.WARNING) -> None:
        LOGGER.log(level, "Tracking: %s", line)


class AzureMLflowLogger(SpooledMLflowLogger):
    """The same for a workspace of Azure ML, through its own client of MLflow, `azureml-mlflow`.

    Parameters
    ----------
    save_dir : str
        Folder of the spools.
    aml_subscription_id, aml_resource_group, aml_workspace_name : str, optional
        The workspace, unless `tracking_uri` names it or the environment does, with AZUREML_ARM_SUBSCRIPTION,
        AZUREML_ARM_RESOURCEGROUP and AZUREML_ARM_WORKSPACE_NAME.
    identity : str
        How to sign in: `default` tries what the environment offers; `service_principal`, `managed` or `cli`.
    **settings : Any
        As for `SpooledMLflowLogger`; `tracking_uri` is one that begins with `azureml://`.
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


def _log_here(uri: str) -> None:
    """Lead MLflow's functions to a store in this process alone: MLflow would tell the other ranks as well."""
    variable = "MLFLOW_TRACKING_URI"
    before = os.environ.get(variable)
    mlflow.set_tracking_uri(uri)
    if before is None:
        os.environ.pop(variable, None)
    else:
        os.environ[variable] = before


def _plain(settings: Any) -> Any:
    """Settings as plain dictionaries, lists, texts and numbers."""
    if OmegaConf.is_config(settings):
        settings = OmegaConf.to_container(settings, resolve=True, throw_on_missing=False)
    if hasattr(settings, "model_dump"):
        settings = settings.model_dump(by_alias=True)
    if isinstance(settings, Mapping):
        return {str(key): _plain(value) for key, value in settings.items()}
    if isinstance(settings, list | tuple | set):
        return [_plain(value) for value in settings]
    return settings if isinstance(settings, str | int | float | bool | type(None)) else str(settings)
