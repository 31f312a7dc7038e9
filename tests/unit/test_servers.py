"""Addresses of servers, and what their failures mean."""

from __future__ import annotations

import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from types import ModuleType

import pytest
import requests
import urllib3
from tracking.memory import Memory, MemoryServer, end, metrics, start, write_spool

from anemoi_house.errors import HouseError
from anemoi_house.tracking.servers import connect
from anemoi_house.tracking.servers.connect import check_uri, shown_uri
from anemoi_house.tracking.servers.failures import LONGEST_REASON, RefusedError, ServerError, UnavailableError, explain
from anemoi_house.tracking.servers.mlflow import MlflowServer
from anemoi_house.tracking.stepper import Job, Stepper


@pytest.mark.parametrize("uri", ["http://127.0.0.1:5000", "https://x/mlflow", "sqlite:////a/b.db", "azureml://h/x"])
def test_addresses(uri: str) -> None:
    check_uri(uri)


@pytest.mark.parametrize(
    ("uri", "message"),
    [
        ("ftp://x", "ftp://"),
        ("databricks", "databricks is not supported; its sign-in .* sqlite:///FILE"),
        ("databricks://profile", "databricks is not supported"),
        ("arn:aws:sagemaker:us-east-1:1:mlflow-tracking-server/x", "arn is not supported"),
        ("postgresql+psycopg2://me:hunter2@db/runs", "postgresql is not supported; .*`mlflow server"),
        ("mysql://db/runs", "mysql is not supported; .*give its http://"),
        ("/scratch/mlruns", "has no scheme"),
        ("file:///scratch", "file is not supported; .*give sqlite:///FILE"),
        ("http://me:hunter2@x", "MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD"),
        ("https://token@x", "MLFLOW_TRACKING_USERNAME"),
        ("", "has no scheme"),
    ],
)
def test_addresses_that_are_none(uri: str, message: str) -> None:
    with pytest.raises(HouseError, match=message) as mistake:
        check_uri(uri)
    assert "hunter2" not in str(mistake.value)
    assert "\n" not in str(mistake.value)


def test_a_workspace_is_shown_by_its_name() -> None:
    assert shown_uri("azureml:///subscriptions/s/resourceGroups/r/providers/x/workspaces/hpc-ws") == (
        "Azure ML workspace hpc-ws"
    )
    assert shown_uri("sqlite:////a/b.db") == "sqlite:////a/b.db"


class Wrapper(Exception):
    """An exception as MLflow raises it."""

    def __init__(self, message: str, error_code: str = "INTERNAL_ERROR", json: dict | None = None) -> None:
        super().__init__(message)
        self.message, self.error_code = message, error_code
        if json is not None:
            self.json = json


def wrapped(inner: Exception) -> Exception:
    """Return a failure as `mlflow.utils.rest_utils.http_request` raises it."""
    try:
        try:
            raise inner
        except Exception as failure:
            raise Wrapper(f"API request to http://host/x failed with exception {failure}")  # noqa: B904
    except Wrapper as wrapper:
        return wrapper


POOL = urllib3.HTTPConnectionPool("host")


@pytest.mark.parametrize(
    ("failure", "kind", "message", "attempts"),
    [
        (wrapped(requests.ConnectionError("[Errno 111] Connection refused")), UnavailableError,
         "cannot connect to host (connection refused)", 3),
        (wrapped(requests.ConnectionError("('Connection aborted.', ConnectionResetError(104, 'Connection reset by'))")),
         UnavailableError, "cannot connect to host (connection reset)", 3),
        (wrapped(requests.ReadTimeout("Read timed out. (read timeout=10)")), UnavailableError,
         "host does not answer", 3),
        (wrapped(requests.exceptions.RetryError(urllib3.exceptions.MaxRetryError(
            POOL, "/x", urllib3.exceptions.ResponseError("too many 429 error responses")))), UnavailableError,
         "host receives too many requests (429)", 6),
        (wrapped(requests.exceptions.RetryError("too many 500 error responses")), UnavailableError,
         "host fails (500)", 6),
        (wrapped(requests.exceptions.SSLError("[SSL: CERTIFICATE_VERIFY_FAILED] certificate verify failed: self-signed"
                                              " certificate (_ssl.c:1000)")), UnavailableError,
         "the certificate of host cannot be verified (self-signed certificate); set REQUESTS_CA_BUNDLE to the "
         "file of its certificate authority", 1),
        (Wrapper("PERMISSION_DENIED: Permission denied", "PERMISSION_DENIED"), UnavailableError,
         "access denied by host (403); check the credentials for this server", 1),
        (Wrapper("x", json={"error": {"code": "UserError", "message": "Bearer token expired"}}), UnavailableError,
         "sign-in refused by host (401); check the credentials for this server", 1),
        (Wrapper("INVALID_PARAMETER_VALUE: Response: {'Error': 'over the size limit'}", "INVALID_PARAMETER_VALUE"),
         RefusedError, "{'Error': 'over the size limit'}", 0),
        (Wrapper("BAD_REQUEST: no", "BAD_REQUEST"), RefusedError, "no", 0),
        (Wrapper("API request to endpoint /x failed with error code 400 != 200. Response body: '<html>no</html>'",
                 "BAD_REQUEST"), UnavailableError, "something before host answers (400): API request to endpoint /x "
         "failed with error code 400 != 200. Response body: '<html>no</html>'", 3),
        (Wrapper("x", json={"error": {"code": "validationerror"}}), UnavailableError,
         "something before host answers (400): x", 3),
        (Wrapper("API request to endpoint /x failed with error code 413 != 200. Response body: '<html>'"),
         RefusedError, "too large for host (413)", 0),
        (Wrapper("(sqlite3.OperationalError) database is locked"), UnavailableError,
         "name is locked by another process", 3),
        (Wrapper("INTERNAL_ERROR: the store has a problem"), UnavailableError,
         "host fails (INTERNAL_ERROR: the store has a problem)", 6),
        (Wrapper("Detected out-of-date database schema (found version a, but expected b). Take a backup"),
         UnavailableError, "name: an older MLflow has made this database. Make a copy of it, then run: mlflow db "
         "upgrade name", 1),
        (OSError(28, "No space left on device"), UnavailableError, "name: [Errno 28] No space left on device", 3),
    ],
)  # fmt: skip
def test_what_failures_mean(failure: Exception, kind: type[ServerError], message: str, attempts: int) -> None:
    explained = explain(failure, "name", "host")
    assert type(explained) is kind
    assert str(explained) == message
    if isinstance(explained, UnavailableError):
        assert explained.attempts == attempts


@pytest.fixture
def listening() -> Iterator[str]:
    """Address of a server that listens and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"http://127.0.0.1:{server.getsockname()[1]}"


def test_a_login_that_is_missing_is_told_of(monkeypatch: pytest.MonkeyPatch, listening: str) -> None:
    from anemoi.utils.mlflow import auth

    def authenticate(self: object) -> None:
        raise RuntimeError("You are not logged in to MLflow. Please log in first.")

    monkeypatch.setattr(auth.TokenAuth, "__init__", lambda self, url: None)
    monkeypatch.setattr(auth.TokenAuth, "authenticate", authenticate)
    with pytest.raises(UnavailableError, match=f"anemoi-training mlflow login --url {listening}"):
        MlflowServer(listening, authentication=True).experiment("nested")


def test_names_that_no_artifact_has(tmp_path: Path, listening: str) -> None:
    for name in ("../a", "/a", "a//b", "a/../b", ".", ""):
        with pytest.raises(RefusedError):
            MlflowServer(listening).upload("run", tmp_path, name)


def test_nothing_is_imported_for_a_server_that_is_away() -> None:
    program = """
import sys
from anemoi_house.tracking.servers.connect import connect
from anemoi_house.tracking.servers.failures import UnavailableError
try:
    connect({"uri": "http://127.0.0.1:9"}).experiment("nested")
except UnavailableError as away:
    print(away, sorted({"mlflow", "requests"} & sys.modules.keys()))
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "cannot connect to 127.0.0.1:9 (connection refused) []\n"


def test_where_a_proxy_knows_the_way_nobody_is_asked_directly(monkeypatch: pytest.MonkeyPatch) -> None:
    away = MlflowServer("http://127.0.0.1:9")
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:10")
    away.prepare()
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with pytest.raises(UnavailableError, match=r"cannot connect to 127\.0\.0\.1:9 \(connection refused\)"):
        away.prepare()


def test_what_is_told_is_one_short_line_without_secrets() -> None:
    failure = Wrapper("no\n" * 1000 + "x", "INVALID_PARAMETER_VALUE")
    assert len(str(explain(failure, "name", "host"))) <= LONGEST_REASON + 3
    secret = Wrapper("at https://x/y?sv=1&sig=hunter2hunter2 Authorization: Bearer abcdefghijklmnop", "BAD_REQUEST")
    message = str(explain(secret, "name", "host"))
    assert "hunter2" not in message
    assert "abcdefghijklmnop" not in message


def test_another_tracker_is_a_module_and_its_scheme(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    module = ModuleType("anemoi_house.tracking.servers.memory")
    memory = Memory()
    functions = {
        "check_uri": lambda uri: None,
        "shown_uri": lambda uri: "the memory",
        "target": lambda uri, given: {"uri": uri},
        "connect": lambda target: MemoryServer(memory),
    }
    module.__dict__.update(functions)
    monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.setitem(connect.MODULES, "memory", "memory")
    spool = write_spool(tmp_path / "run", [start(), metrics(("a", 1.0, 0)), end()], uri="memory://here")
    job = Job()
    with closing(Stepper(spool, job)) as stepper:
        assert not stepper.step()
    assert [run.status for run in memory.active()] == ["FINISHED"]
    assert connect.shown_uri("memory://here") == "the memory"
