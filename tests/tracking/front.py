"""A front before an MLflow server, which fails on demand.

It answers in threads of the test. As a process of its own, for benchmarks, see `tracking.separate`.
"""

from __future__ import annotations

import http.client
import json
import os
import re
import socket
import ssl
import struct
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Self
from urllib.parse import unquote, urlsplit

from tracking.mlflow_server import HOST, MlflowServer, reserve_port

KINDS = ("status", "hang", "reset", "answer-lost", "slow")

# Headers that are about one connection, or that are made anew for the next.
_NOT_PASSED_ON = {"connection", "content-length", "host", "keep-alive", "te", "trailer", "transfer-encoding", "upgrade"}


@dataclass
class Fault:
    """What goes wrong, where, and how often.

    Attributes
    ----------
    path : str
        Regular expression that is searched for in the path of a request, without its query.
    kind : str
        - `status`: the answer is `status`, with `headers` and `body`, and the request is not carried out;
        - `hang`: no answer, ever, and the request is not carried out;
        - `reset`: the connection is reset, and the request is not carried out;
        - `answer-lost`: the request is carried out, and the connection is reset `seconds` later without an answer;
        - `slow`: the request is carried out and answered `seconds` later.

        `Front.heal` ends all waiting: of these connections, those that hang are closed.
    status : int, optional
    method : str, optional
        Any without it.
    times : int, optional
        How often it happens; always without it.
    after : int
        So many fitting requests pass before it happens.
    lasting_s : float, optional
        Happens no more when so many seconds have passed since it was set.
    headers : dict
    body : str, optional
        An error as the server tells it, without it.
    seconds : float
    hits : int
        How often it has happened.
    """

    path: str
    kind: str
    status: int | None = None
    method: str | None = None
    times: int | None = None
    after: int = 0
    lasting_s: float | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    body: str | None = None
    seconds: float = 0.0
    hits: int = 0
    _seen: int = 0
    _set: float = field(default_factory=time.monotonic)

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"There is no fault {self.kind!r}: it is one of {', '.join(KINDS)}.")
        if (self.kind == "status") != (self.status is not None):
            raise ValueError("A status belongs to a fault of kind 'status', and to no other.")

    def _happens(self, method: str, path: str) -> bool:
        if not re.search(self.path, path) or self.method not in (None, method):
            return False
        if self.lasting_s is not None and time.monotonic() - self._set > self.lasting_s:
            return False
        self._seen += 1
        if self._seen <= self.after or (self.times is not None and self.hits >= self.times):
            return False
        self.hits += 1
        return True


@dataclass
class Request:
    """A request that came in, and what became of it.

    Attributes
    ----------
    time : float
        When it was read, in seconds of the epoch.
    method, path : str
        The path without its query, and unquoted.
    size : int
        Bytes of its body.
    status : int, optional
        None while it is not answered, which for some faults is ever.
    fault : str, optional
        The kind of the fault that it met.
    carried_out : bool
        Whether it was acted upon: passed on to the server, or answered in place of it.
    """

    time: float
    method: str
    path: str
    size: int
    status: int | None = None
    fault: str | None = None
    carried_out: bool = False


@dataclass(frozen=True)
class Incoming:
    """A request as it was sent: `target` is the path as it was quoted, with its query."""

    method: str
    target: str
    headers: Mapping[str, str]
    body: bytes

    @property
    def path(self) -> str:
        """The path, unquoted."""
        return unquote(urlsplit(self.target).path)

    @property
    def query(self) -> str:
        """The query, quoted."""
        return urlsplit(self.target).query


@dataclass(frozen=True)
class Answer:
    """What is sent back."""

    status: int
    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, status: int, content: object, headers: Mapping[str, str] | None = None) -> Answer:
        """An answer in JSON."""
        return cls(status, json.dumps(content).encode(), {"Content-Type": "application/json"} | dict(headers or {}))


SentMetric = tuple[str, str, float | str, int, int]
"""Run, key, value, time in milliseconds, step."""


class Front:
    """Passes requests on to an MLflow server, and fails as it is told.

    Parameters
    ----------
    upstream : MlflowServer or str
        The server, or its address.

    Attributes
    ----------
    port : int
        The same after every start.
    metrics : list of tuple
        All metric rows that the server has accepted, in this order: MLflow keeps a row that is sent twice once, so that
        only these tell what was sent twice.
    refused_handshakes : int
        TLS connections that clients gave up, as they do when a certificate does not verify.
    """

    scheme = "http"

    def __init__(self, upstream: MlflowServer | str) -> None:
        uri = urlsplit(upstream if isinstance(upstream, str) else upstream.uri)
        assert uri.hostname is not None
        assert uri.port is not None
        self._upstream = (uri.hostname, uri.port)
        self.port = reserve_port(self)
        self.metrics: list[SentMetric] = []
        self.refused_handshakes = 0
        self._faults: list[Fault] = []
        self._requests: list[Request] = []
        self._lock = threading.Lock()
        self._healed = threading.Event()
        self._silent = False
        self._server: _Server | None = None
        self._thread: threading.Thread | None = None

    @property
    def url(self) -> str:
        """Its own address."""
        return f"{self.scheme}://{HOST}:{self.port}"

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

    # Running

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def running(self) -> bool:
        """Whether it listens."""
        return self._server is not None

    def start(self) -> None:
        """Listen, the first time or again."""
        if self._server is not None:
            raise RuntimeError("The front is running.")
        self._server = _Server(self)
        self._thread = threading.Thread(
            target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, name="front", daemon=True
        )
        self._thread.start()

    def stop(self) -> None:
        """Listen no more, and break off all connections: for clients the server is absent."""
        if self._server is None or self._thread is None:
            return
        self._server.close()
        self._release()
        self._thread.join()
        self._server = self._thread = None

    # Faults

    def fail(self, path: str = "", *, status: int | None = None, kind: str | None = None, **details: object) -> Fault:
        """Set a fault; of several the first that fits a request happens.

        Parameters
        ----------
        path : str
            Regular expression, for any request if it is empty.
        status : int, optional
        kind : str, optional
            May be left out where there is a status.
        details
            Of `Fault`: `method`, `times`, `after`, `lasting_s`, `headers`, `body`, `seconds`.
        """
        fault = Fault(path, kind or "status", status, **details)  # type: ignore[arg-type]
        with self._lock:
            self._faults.append(fault)
        return fault

    def silence(self) -> None:
        """Accept connections and never say a word, not even for a TLS handshake."""
        self._silent = True

    def heal(self) -> None:
        """No more faults; who waits on one waits no longer."""
        with self._lock:
            self._faults.clear()
        self._silent = False
        self._release()

    def _release(self) -> None:
        with self._lock:
            healed, self._healed = self._healed, threading.Event()
        healed.set()

    def _fault_for(self, method: str, path: str) -> Fault | None:
        with self._lock:
            return next((fault for fault in self._faults if fault._happens(method, path)), None)

    # What was asked

    @property
    def requests(self) -> list[Request]:
        """All requests so far, in the order in which they came."""
        with self._lock:
            return [replace(request) for request in self._requests]

    def count(self, path: str = "", **attributes: object) -> int:
        """Number of requests whose path has the regular expression `path`, and whose attributes are these."""
        return sum(
            re.search(path, request.path) is not None
            and all(getattr(request, name) == value for name, value in attributes.items())
            for request in self.requests
        )

    def forget(self) -> None:
        """Begin the list of requests anew."""
        with self._lock:
            self._requests.clear()

    def _record(self, request: Request) -> None:
        with self._lock:
            self._requests.append(request)

    # Answers

    def answer(self, incoming: Incoming) -> Answer:
        """Carry a request out."""
        return self.pass_on(incoming)

    def error(self, status: int, code: str, message: str) -> Answer:
        """An error as this server tells it."""
        return Answer.of(status, {"error_code": code, "message": message})

    def pass_on(self, incoming: Incoming) -> Answer:
        """Let the server answer."""
        headers = {name: value for name, value in incoming.headers.items() if name.lower() not in _NOT_PASSED_ON}
        # A connection of its own: the server closes idle ones, and then it is not known whether a request came through.
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

    def tls(self) -> ssl.SSLContext | None:
        """Certificate and key, for a front that speaks TLS."""
        return None


_CODES = {401: "UNAUTHENTICATED", 403: "PERMISSION_DENIED", 404: "RESOURCE_DOES_NOT_EXIST"}
_CODES |= {429: "RESOURCE_EXHAUSTED", 503: "TEMPORARILY_UNAVAILABLE"}


class _Handler(BaseHTTPRequestHandler):
    """Answers the requests of one connection, one after the other."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: _Server

    def log_message(self, format: str, *args: object) -> None:
        """Nothing on the terminal of the tests."""

    def _respond(self) -> None:
        front, healed = self.server.front, self.server.front._healed
        incoming = Incoming(self.command, self.path, dict(self.headers.items()), self._body())
        fault = front._fault_for(incoming.method, incoming.path)
        request = Request(time.time(), incoming.method, incoming.path, len(incoming.body))
        request.fault = fault.kind if fault else None
        front._record(request)
        if fault is None:
            self._carry_out(request, incoming)
        elif fault.kind == "status":
            self._send(request, _failed(front, fault))
        elif fault.kind == "slow":
            healed.wait(fault.seconds)
            self._carry_out(request, incoming)
        elif fault.kind == "answer-lost":
            request.carried_out = True
            front.answer(incoming)
            healed.wait(fault.seconds)
            self._reset()
        elif fault.kind == "hang":
            healed.wait()
            self.close_connection = True
        else:
            self._reset()

    do_GET = do_HEAD = do_POST = do_PUT = do_PATCH = do_DELETE = _respond

    def _body(self) -> bytes:
        if "chunked" not in self.headers.get("Transfer-Encoding", ""):
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        chunks = []
        while size := int(self.rfile.readline().split(b";")[0], 16):
            chunks.append(self.rfile.read(size))
            self.rfile.readline()
        while self.rfile.readline().strip():
            pass
        return b"".join(chunks)

    def _carry_out(self, request: Request, incoming: Incoming) -> None:
        request.carried_out = True
        self._send(request, self.server.front.answer(incoming))

    def _send(self, request: Request, answer: Answer) -> None:
        request.status = answer.status  # before the client has it, who may count at once
        self.send_response(answer.status)
        for name, value in answer.headers.items():
            self.send_header(name, value)
        if answer.status != 204:
            self.send_header("Content-Length", str(len(answer.body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(answer.body)

    def _reset(self) -> None:
        """Close the connection such that the client reads RST: a linger time of zero, and no file object in between."""
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        os.close(self.connection.detach())
        self.close_connection = True


def _failed(front: Front, fault: Fault) -> Answer:
    assert fault.status is not None
    if fault.body is not None:
        return Answer(fault.status, fault.body.encode(), fault.headers)
    answer = front.error(fault.status, _CODES.get(fault.status, "INTERNAL_ERROR"), f"status {fault.status} on demand")
    return replace(answer, headers=dict(answer.headers) | dict(fault.headers))


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = 256

    def __init__(self, front: Front) -> None:
        super().__init__((HOST, front.port), _Handler)
        self.front = front
        self._tls = front.tls()
        self._connections: set[socket.socket] = set()

    def finish_request(self, request: socket.socket, client_address: tuple[str, int]) -> None:  # type: ignore[override]
        """Serve a connection, in its thread: nothing that a client does holds up another."""
        with self._open(request):
            if self.front._silent:
                self.front._healed.wait()
                return
            secured = self._secured(request)
        if secured is not None:
            with self._open(secured), closing(secured):
                super().finish_request(secured, client_address)

    @contextmanager
    def _open(self, connection: socket.socket) -> Iterator[None]:
        self._connections.add(connection)
        try:
            yield
        finally:
            self._connections.discard(connection)

    def _secured(self, connection: socket.socket) -> socket.socket | None:
        """The connection to be used: None if there is none, as TLS was given up."""
        if self._tls is None:
            return connection
        try:
            return self._tls.wrap_socket(connection, server_side=True)
        except OSError:
            self.front.refused_handshakes += 1
            return None

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that goes away in the middle of a request is no news; anything else is."""
        if not isinstance(sys.exc_info()[1], OSError):
            super().handle_error(request, client_address)  # type: ignore[arg-type]

    def close(self) -> None:
        """Stop listening, and end the connections that clients keep open."""
        self.shutdown()
        self.server_close()
        for connection in list(self._connections):
            with suppress(OSError):
                # Past the TLS layer, which is in use by another thread.
                socket.socket.shutdown(connection, socket.SHUT_RDWR)
