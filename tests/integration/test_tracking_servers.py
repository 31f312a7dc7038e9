"""The servers for the tests of tracking, with the unmodified clients of MLflow and Azure ML."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest
from tracking.azure import AzureFront
from tracking.fixtures import azure_front, mlflow_server, plain_front, template_database  # noqa: F401
from tracking.front import Front
from tracking.mlflow_server import MlflowServer
from tracking.separate import SeparateFront

pytestmark = pytest.mark.alone

# Runs lines of Python, and answers each with the value of `result`, or with the error.
CLIENT = """
import json, sys, time
from mlflow import MlflowClient, artifacts
from mlflow.entities import Metric, Param, RunTag
client = MlflowClient()
for line in sys.stdin:
    names = globals() | {"result": None}
    try:
        exec(json.loads(line), names)
        answer = {"result": names["result"]}
        globals().update({name: names[name] for name in ("experiment", "run") if name in names})
    except Exception as error:
        answer = {"error": f"{type(error).__name__}: {error}"}
    print("ANSWER" + json.dumps(answer), flush=True)
"""


class Client:
    """A process with a client of MLflow, configured by its environment alone."""

    def __init__(self, folder: Path, environment: dict[str, str]) -> None:
        clean = {name: value for name, value in os.environ.items() if not name.startswith(("AZURE", "MLFLOW", "ARM_"))}
        self.log = folder / "client.log"
        with self.log.open("wb") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-c", CLIENT],
                cwd=folder,
                env=clean | {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2", "MLFLOW_DISABLE_TELEMETRY": "true"} | environment,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
            )

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.communicate()

    def answer(self, code: str) -> dict[str, object]:
        """Run Python; return its variable `result`, or the error."""
        print(json.dumps(code), file=self._process.stdin, flush=True)
        for line in self._process.stdout:
            if line.startswith("ANSWER"):
                return json.loads(line.removeprefix("ANSWER"))
        pytest.fail(f"The client ended:\n{self.log.read_text()}")

    def do(self, code: str) -> object:
        """Run Python that must succeed; return its variable `result`."""
        answer = self.answer(code)
        assert "error" not in answer, f"{answer['error']}\n{self.log.read_text()[-3000:]}"
        return answer["result"]

    def refused(self, code: str) -> str:
        """Run Python that must fail; return the error."""
        answer = self.answer(code)
        assert "error" in answer, code
        return str(answer["error"])


def test_azure_client(azure_front: AzureFront, mlflow_server: MlflowServer, tmp_path: Path) -> None:  # noqa: F811
    front, server = azure_front, mlflow_server
    front.token_life_s = 60  # a client with a token for less than five minutes fetches one for every call
    (tmp_path / "a.txt").write_bytes(b"one\n")
    with (
        Client(tmp_path, front.environment) as client,
        Client(tmp_path, front.environment | {"AZURE_CLIENT_SECRET": "wr0ng"}) as stranger,
    ):
        client.do("experiment = client.create_experiment('nested')")
        run_id = client.do(
            "info = client.create_run(experiment, start_time=5, tags={'kind': 'first'}, run_name='r').info;"
            "result = run = info.run_id"
        )
        client.do(
            "values = 0.5, 0.25, float('nan'), float('inf'), -float('inf');"
            "rows = [Metric('loss', value, 10 * step, step) for step, value in enumerate(values)];"
            "client.log_batch(run, rows, [Param('p', '1')], [RunTag('t', '2')])"
        )
        client.do("client.log_artifact(run, 'a.txt', 'texts')")

        # Nothing is overwritten, and every limit holds.
        assert "Resource Conflict" in client.refused("client.log_artifact(run, 'a.txt', 'texts')")
        assert "Limit=200, Size=201" in client.refused(
            "client.log_batch(run, params=[Param(f'p{i}', '') for i in range(100)]);"
            "client.log_batch(run, params=[Param(f'p{i}', '') for i in range(100, 200)])"
        )
        assert "Limit=50" in client.refused("client.log_batch(run, tags=[RunTag(f't{i}', '') for i in range(50)])")
        assert "Limit=500, Size=501" in client.refused("client.log_param(run, 'p0', 501 * 'x')")
        client.do("artifacts.download_artifacts(run_id=run, artifact_path='texts/a.txt', dst_path='.')")
        assert (tmp_path / "texts/a.txt").read_bytes() == b"one\n"

        # A token that has expired is replaced from call to call, but not from retry to retry within one.
        front.token_life_s = 0.9
        front.fail("log-metric", status=429, times=1, headers={"Retry-After": "1"})
        assert "expired" in client.refused("client.log_metric(run, 'later', 1.0, 60, 6)")
        front.token_life_s = 60
        issued = front.tokens_issued
        client.do("client.log_metric(run, 'later', 1.0, 60, 6)")
        assert front.tokens_issued == issued + 1
        client.do("client.set_terminated(run, 'FINISHED', 99)")

        error = stranger.refused("client.search_experiments()")
        assert "AADSTS7000215" in error
        assert front.client_secret not in error

    assert server.find_runs("nested", {"kind": "first"}) == [run_id]
    run = server.read_run(str(run_id))
    assert (run["name"], run["status"], run["start_time"], run["end_time"]) == ("r", "FINISHED", 5, 99)
    assert run["params"] == {"p": "1"} | {f"p{number}": "" for number in range(100)}
    assert run["tags"] == {"t": "2", "kind": "first", "mlflow.runName": "r"}
    assert run["artifacts"] == {"texts/a.txt": b"one\n"}
    losses = [0.5, 0.25, "NaN", "Infinity", "-Infinity"]
    assert run["metrics"] == [("later", 1.0, 60, 6)] + [("loss", loss, 10 * n, n) for n, loss in enumerate(losses)]
    assert [row[1:] for row in front.metrics if row[1] == "later"] == [("later", 1.0, 60, 6)]
    assert front.count("authorize|devicecode") == 0


def ask(uri: str, path: str, content: object = None, patience_s: float = 5) -> tuple[int, dict[str, str], object]:
    """Return the status, headers and content of an answer."""
    body = None if content is None else json.dumps(content).encode()
    asked = urllib.request.Request(f"{uri}/{path}", data=body, headers={"Content-Type": "application/json"})
    try:
        answer = urllib.request.build_opener(urllib.request.ProxyHandler({})).open(asked, timeout=patience_s)
    except urllib.error.HTTPError as error:
        answer = error
    with answer:
        return answer.status, dict(answer.headers), json.loads(answer.read())


def create(uri: str, name: str, **options: float) -> int:
    """Return the status of a request that can be carried out once."""
    return ask(uri, "api/2.0/mlflow/experiments/create", {"name": name}, **options)[0]


def test_faults(plain_front: Front) -> None:  # noqa: F811
    front = plain_front
    front.fail("create$", method="GET", status=500)
    front.fail("create$", status=429, after=1, times=1, headers={"Retry-After": "7"})
    assert [create(front.uri, "a"), create(front.uri, "b"), create(front.uri, "b")] == [200, 429, 200]
    front.fail("create$", kind="answer-lost", times=1)
    with pytest.raises(ConnectionResetError):
        create(front.uri, "c")
    assert create(front.uri, "c") == 400  # it was created
    front.fail("create$", kind="reset", times=1)
    with pytest.raises(ConnectionResetError):
        create(front.uri, "d")
    assert create(front.uri, "d") == 200
    front.fail("create$", kind="slow", seconds=0.2, times=1)
    began = time.monotonic()
    assert create(front.uri, "e") == 200
    assert time.monotonic() - began >= 0.2
    front.fail("create$", kind="timeout")
    with pytest.raises(TimeoutError):
        create(front.uri, "f", patience_s=0.1)
    front.silence()
    with pytest.raises(TimeoutError):
        create(front.uri, "f", patience_s=0.1)
    front.heal()
    assert create(front.uri, "f") == 200
    front.stop()
    with pytest.raises(urllib.error.URLError, match="refused"):
        create(front.uri, "g")
    front.start()
    assert create(front.uri, "g") == 200
    assert front.count("create$") == 11
    assert front.count("create$", fault="timeout", carried_out=False, status=0) == 1


def test_server_comes_back(mlflow_server: MlflowServer, tmp_path: Path) -> None:  # noqa: F811
    with SeparateFront("plain", mlflow_server, tmp_path) as front:
        assert create(front.uri, "a") == 200
        mlflow_server.kill()
        assert create(front.uri, "b") == 503
        mlflow_server.start()
        assert [create(front.uri, "a"), create(front.uri, "b")] == [400, 200]
        front.call("fail", "create$", status=500, times=1)
        assert [create(front.uri, "c"), create(front.uri, "c")] == [500, 200]
        assert front.call("count", "create$", status=500) == 1
