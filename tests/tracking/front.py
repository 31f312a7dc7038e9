"""A front before an MLflow server, which fails on demand.

It answers in threads of the test. As a process of its own, for benchmarks, see `tracking.separate`.
"""

from __future__ import annotations

import http.client
import json
from contextlib import closing
from urllib.parse import urlsplit

from faults.messages import Answer, Fault, Incoming
from faults.server import HOST, FaultServer

from tracking.mlflow_server import MlflowServer

# Headers of one connection, or that are set again for the next.
_NOT_PASSED_ON = {"connection", "content-length", "host", "keep-alive", "te", "trailer", "transfer-encoding", "upgrade"}
_CODES = {401: "UNAUTHENTICATED", 403: "PERMISSION_DENIED", 404: "RESOURCE_DOES_NOT_EXIST"}
_CODES |= {429: "RESOURCE_EXHAUSTED", 503: "TEMPORARILY_UNAVAILABLE"}

SentMetric = tuple[str, str, float | str, int, int]
"""Run, key, value, time in milliseconds, step."""


class Front(FaultServer):
    """Passes requests on to an MLflow server, and fails on demand.

    Parameters
    ----------
    upstream : MlflowServer or str
        The server, or its address.

    Attributes
    ----------
    metrics : list of tuple
        All metric rows that the server has accepted, in this order. MLflow keeps a row that is sent twice once, so only
        these show what was sent twice.
    """

    def __init__(self, upstream: MlflowServer | str) -> None:
        super().__init__()
        uri = urlsplit(upstream if isinstance(upstream, str) else upstream.uri)
        assert uri.hostname is not None
        assert uri.port is not None
        self._upstream = (uri.hostname, uri.port)
        self.metrics: list[SentMetric] = []

    @property
    def uri(self) -> str:
        """The tracking address for clients."""
        return self.url

    @property
    def environment(self) -> dict[str, str]:
        """Variables that lead a client of MLflow here."""
        return self.without_proxy | {"MLFLOW_TRACKING_URI": self.uri}

    @property
    def without_proxy(self) -> dict[str, str]:
        """Variables that keep a client from asking a proxy for this machine."""
        return {"NO_PROXY": f"{HOST},localhost", "no_proxy": f"{HOST},localhost"}

    def fail(self, path: str = "", kind: str = "", status: int = 0, **details: object) -> None:
        """Add a fault: a kind, or a status; `details` are further attributes of `Fault`."""
        self.inject(Fault(path, kind or status, **details))  # type: ignore[arg-type]

    def answer(self, incoming: Incoming) -> Answer:
        """Carry a request out."""
        return self.pass_on(incoming)

    def failure(self, status: int) -> Answer:
        """Return an error as MLflow writes it."""
        return self.error(status, _CODES.get(status, "INTERNAL_ERROR"), f"status {status} on demand")

    def error(self, status: int, code: str, message: str) -> Answer:
        """Return an error as this server writes it."""
        return Answer.of(status, {"error_code": code, "message": message})

    def pass_on(self, incoming: Incoming) -> Answer:
        """Return the answer of the server."""
        headers = {name: value for name, value in incoming.headers.items() if name.lower() not in _NOT_PASSED_ON}
        # A connection of its own: the server closes idle ones, and then it is unknown whether a request came through.
        with closing(http.client.HTTPConnection(*self._upstream, timeout=60)) as connection:
            try:
                connection.request(incoming.method, incoming.target, incoming.body or None, headers)
                response = connection.getresponse()
                body = response.read()
            except (OSError, http.client.HTTPException) as error:
                return self.error(503, "TEMPORARILY_UNAVAILABLE", f"No server behind the front: {error}")
        if response.status == 200:
            self._note_metrics(incoming)
        passed = {name: value for name, value in response.getheaders() if name.lower() not in _NOT_PASSED_ON}
        return Answer(response.status, body, passed)

    def _note_metrics(self, incoming: Incoming) -> None:
        name = incoming.path.rpartition("/")[2]
        if name not in ("log-batch", "log-metric"):
            return
        content = json.loads(incoming.body)
        run = content.get("run_id") or content.get("run_uuid")
        rows = content.get("metrics", []) if name == "log-batch" else [content]
        with self._lock:
            self.metrics += [
                (run, row["key"], row["value"], int(row["timestamp"]), int(row.get("step", 0))) for row in rows
            ]
