"""A real MLflow server on SQLite, and its runs read back from its files, without MLflow.

`mlflow server` takes ten seconds to start, almost all of it for imports, in the command and again in the process that
it starts. So one process imports everything once for all tests, and forks: each fork is a server as `mlflow server`
runs it, and starts in half a second. `MlflowServer(folder, command=True)` runs the command itself.
"""

from __future__ import annotations

import atexit
import importlib
import json
import math
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Mapping
from contextlib import closing, suppress
from pathlib import Path
from typing import TypedDict
from urllib.parse import urlsplit

from faults.server import HOST, reserve_port

TESTS = Path(__file__).parents[1]

# Whatever proxy the environment names, the servers are on this machine.
_DIRECTLY = urllib.request.build_opener(urllib.request.ProxyHandler({}))

# Variables of `mlflow server` for its server process; no other processes, no telemetry.
_SETTINGS = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
    "_MLFLOW_SGI_NAME": "uvicorn",
    "_MLFLOW_SERVER_SERVE_ARTIFACTS": "true",
    "_MLFLOW_SERVER_ARTIFACT_ROOT": "mlflow-artifacts:/",
}


class MlflowServer:
    """An MLflow server with a database and a folder of artifacts of its own.

    Parameters
    ----------
    folder : Path
        Holds database, artifacts and log, also for a server that is started again.
    template : Path, optional
        An empty database, copied if the folder has none, which is faster than creating one.
    command : bool
        Run `mlflow server` instead of a fork, which starts faster.

    Attributes
    ----------
    uri : str
        Its address, the same after every start.
    database, artifacts, log : Path
    """

    def __init__(self, folder: Path, *, template: Path | None = None, command: bool = False) -> None:
        self.folder = folder
        self.database = folder / "mlflow.db"
        self.artifacts = folder / "artifacts"
        self.log = folder / "server.log"
        self.port = reserve_port(self)
        self.uri = f"http://{HOST}:{self.port}"
        self._template = template
        self._command = command
        self._process: subprocess.Popen[bytes] | int | None = None

    def __enter__(self) -> MlflowServer:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def running(self) -> bool:
        """Whether there is a server process."""
        if isinstance(self._process, subprocess.Popen):
            return self._process.poll() is None
        return self._process is not None and _exists(self._process)

    def start(self) -> None:
        """Start the server, the first time or again, and wait until it answers."""
        if self.running:
            raise RuntimeError("The server is running.")
        self.folder.mkdir(parents=True, exist_ok=True)
        if self._template is not None and not self.database.exists():
            shutil.copy(self._template, self.database)
        self._process = self._run_command() if self._command else _forks().start(self.folder, self.port)
        self._wait_until_up()

    def stop(self, patience_s: float = 10) -> None:
        """Stop the server as a service manager does: SIGTERM, and SIGKILL if that takes too long."""
        self._end(signal.SIGTERM, patience_s)
        self.kill()

    def kill(self) -> None:
        """Send SIGKILL to all processes of the server."""
        self._end(signal.SIGKILL, 10)

    def find_runs(self, experiment: str | None = None, tags: Mapping[str, str] | None = None) -> list[str]:
        """See `find_runs`."""
        return find_runs(self.database, experiment, tags)

    def read_run(self, run_id: str) -> Run:
        """See `read_run`."""
        return read_run(self.database, run_id)

    def _run_command(self) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "mlflow", "server", "--backend-store-uri", f"sqlite:///{self.database}"]
        command += ["--artifacts-destination", str(self.artifacts), "--serve-artifacts"]
        command += ["--host", HOST, "--port", str(self.port), "--workers", "1"]
        environment = _clean_environment()
        with self.log.open("ab") as log:
            return subprocess.Popen(
                command, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
            )

    def _wait_until_up(self, patience_s: float = 120) -> None:
        deadline = time.monotonic() + patience_s
        while time.monotonic() < deadline and self.running:
            with suppress(OSError), _DIRECTLY.open(f"{self.uri}/health", timeout=5):
                return
            time.sleep(0.02)
        self.kill()
        raise RuntimeError(f"The MLflow server does not answer at {self.uri}:\n{self.log.read_text()[-6000:]}")

    def _end(self, number: signal.Signals, patience_s: float) -> None:
        if self._process is None:
            return
        group = self._process if isinstance(self._process, int) else self._process.pid
        with suppress(ProcessLookupError):
            os.killpg(group, number)
        deadline = time.monotonic() + patience_s
        while self.running and time.monotonic() < deadline:
            time.sleep(0.01)


def make_database(folder: Path) -> Path:
    """Create an empty database, the template of `MlflowServer`."""
    with MlflowServer(folder) as server:
        return server.database


# Reading back

MetricRow = tuple[str, float | str, int, int]
"""Key, value (also "NaN", "Infinity" or "-Infinity"), time in milliseconds, step."""


class Run(TypedDict):
    """Everything that a server has of a run. Times are in milliseconds, the metric rows are sorted."""

    run_id: str
    name: str
    experiment: str
    status: str
    start_time: int | None
    end_time: int | None
    params: dict[str, str]
    tags: dict[str, str]
    metrics: list[MetricRow]
    artifacts: dict[str, bytes]


def find_runs(database: Path, experiment: str | None = None, tags: Mapping[str, str] | None = None) -> list[str]:
    """Return the ids of the runs of an experiment that have all these tags, in the order of their start."""
    with closing(_open(database)) as store:
        found = store.execute(
            "select run_uuid from runs join experiments using (experiment_id)"
            " where ? is null or experiments.name = ? order by start_time, runs.rowid",
            (experiment, experiment),
        ).fetchall()
        wanted = set((tags or {}).items())
        return [run_id for (run_id,) in found if wanted <= _pairs(store, "tags", run_id).items()]


def read_run(database: Path | str, run_id: str, artifacts: Path | None = None) -> Run:
    """Read everything that a server, or a store in a file, has of a run.

    Parameters
    ----------
    database : Path or str
        The SQLite file; the address of a store (sqlite:///FILE) too.
    run_id : str
    artifacts : Path, optional
        The server's folder of artifacts, by default `artifacts` next to the database; unused if the run itself names
        its folder.
    """
    database = Path(str(database).removeprefix("sqlite:///"))
    with closing(_open(database)) as store:
        row = store.execute(
            "select runs.name, experiments.name, status, start_time, end_time, artifact_uri"
            " from runs join experiments using (experiment_id) where run_uuid = ?",
            (run_id,),
        ).fetchone()
        if row is None:
            raise KeyError(f"{database} has no run {run_id}")
        name, experiment, status, start_time, end_time, artifact_uri = row
        rows = store.execute("select key, value, is_nan, timestamp, step from metrics where run_uuid = ?", (run_id,))
        metrics: list[MetricRow] = [
            (key, _comparable(value, bool(is_nan)), timestamp, step) for key, value, is_nan, timestamp, step in rows
        ]
        return Run(
            run_id=run_id,
            name=name,
            experiment=experiment,
            status=status,
            start_time=start_time,
            end_time=end_time or None,
            params=_pairs(store, "params", run_id),
            tags=_pairs(store, "tags", run_id),
            metrics=sorted(metrics, key=lambda row: (row[0], row[3], row[2], str(row[1]))),
            artifacts=_files(_artifact_folder(artifact_uri, artifacts or database.parent / "artifacts")),
        )


def _open(database: Path) -> sqlite3.Connection:
    return sqlite3.connect(f"file:{database}?mode=ro", uri=True, timeout=30)


def _pairs(store: sqlite3.Connection, table: str, run_id: str) -> dict[str, str]:
    return dict(store.execute(f"select key, value from {table} where run_uuid = ? order by key", (run_id,)).fetchall())


def _comparable(value: float, is_nan: bool) -> float | str:
    """Return a value as a spool has it; MLflow stores infinity as the largest number."""
    if is_nan:
        return "NaN"
    if abs(value) >= sys.float_info.max or math.isinf(value):
        return "Infinity" if value > 0 else "-Infinity"
    return value


def _artifact_folder(artifact_uri: str, root: Path) -> Path:
    parts = urlsplit(artifact_uri)
    return root / parts.path.lstrip("/") if parts.scheme == "mlflow-artifacts" else Path(parts.path)


def _files(folder: Path) -> dict[str, bytes]:
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}


# The process that forks


def _clean_environment() -> dict[str, str]:
    """Return the environment without settings of MLflow."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("MLFLOW_", "_MLFLOW_"))}
    return clean | {"MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}


def _exists(process: int) -> bool:
    with suppress(ProcessLookupError):
        os.kill(process, 0)
        return True
    return False


class _Forks:
    """The process that has imported everything. It and its servers end together with this process."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._process = subprocess.Popen(
            [sys.executable, "-W", "ignore", "-m", "tracking.mlflow_server"],
            env=_clean_environment() | {"PYTHONPATH": str(TESTS)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,  # Ctrl-C is for the tests, which end their servers
        )
        atexit.register(self.close)

    def start(self, folder: Path, port: int) -> int:
        """Start a server, and return its process, which leads a process group."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        with self._lock:
            print(json.dumps({"folder": str(folder), "port": port}), file=self._process.stdin, flush=True)
            answer = self._process.stdout.readline()
        if not answer:
            raise RuntimeError("The process that starts MLflow servers has ended: what it printed is above.")
        return int(answer)

    @property
    def alive(self) -> bool:
        return self._process.poll() is None

    def close(self) -> None:
        assert self._process.stdin is not None
        with suppress(OSError):
            self._process.stdin.close()
        self._process.wait()


_all_forks: list[_Forks] = []


def _forks() -> _Forks:
    if not _all_forks or not _all_forks[-1].alive:
        _all_forks.append(_Forks())
    return _all_forks[-1]


def main() -> None:
    """Fork a server for each line of the standard input."""
    os.environ.update(_SETTINGS)
    for module in ("mlflow.server.fastapi_app", "uvicorn"):
        importlib.import_module(module)

    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for the servers: the kernel buries them
    servers = []
    for line in sys.stdin:
        order = json.loads(line)
        server = os.fork()
        if server == 0:
            _serve(Path(order["folder"]), order["port"])
        servers.append(server)
        print(server, flush=True)
    for server in servers:
        with suppress(ProcessLookupError):
            os.killpg(server, signal.SIGKILL)


def _serve(folder: Path, port: int) -> None:
    """Run as the server process that `mlflow server` starts."""
    os.setsid()
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    log = os.open(folder / "server.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    nothing = os.open(os.devnull, os.O_RDONLY)
    for opened, stream in ((nothing, 0), (log, 1), (log, 2)):
        os.dup2(opened, stream)
    status = 1
    try:
        _answer_requests(folder, port)
        status = 0
    except BaseException:
        sys.excepthook(*sys.exc_info())
    finally:
        os._exit(status)


def _answer_requests(folder: Path, port: int) -> None:
    import uvicorn
    from mlflow import server
    from mlflow.server.fastapi_app import app
    from mlflow.server.handlers import initialize_backend_stores

    store = f"sqlite:///{folder / 'mlflow.db'}"
    os.environ[server.BACKEND_STORE_URI_ENV_VAR] = os.environ[server.REGISTRY_STORE_URI_ENV_VAR] = store
    os.environ[server.ARTIFACTS_DESTINATION_ENV_VAR] = str(folder / "artifacts")
    initialize_backend_stores(store, store, os.environ[server.ARTIFACT_ROOT_ENV_VAR])
    uvicorn.run(app, host=HOST, port=port, log_config=str(server._UVICORN_LOG_CONFIG))


if __name__ == "__main__":
    main()
