"""An HTTP server in threads of the test, which fails on demand.

`noaa.servers` serves files with it, `tracking.front` and `tracking.azure` stand before an MLflow server with it.
"""

from __future__ import annotations

import os
import random
import re
import socket
import ssl
import struct
import sys
import threading
import weakref
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Self

from faults.messages import Answer, Fault, Incoming, Request

HOST = "127.0.0.1"
_PAGE = b"<!DOCTYPE html>\n<html><head><title>Maintenance</title></head><body>Back soon.</body></html>\n"


def reserve_port(owner: object) -> int:
    """Reserve a port for a server as long as the owner lives, also while the server is down.

    It is none of those that the kernel gives to clients: a client that looks for the absent server could get its port,
    and connect to itself.
    """
    for port in random.sample(range(20000, 32000), 1000):
        held = socket.socket()
        try:
            held.bind((HOST, port))
        except OSError:
            held.close()
            continue
        # With this option, which servers set too, a server may listen; the search above, without it, passes on.
        held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        weakref.finalize(owner, held.close)
        return port
    raise RuntimeError("No free port between 20000 and 32000.")


class FaultServer:
    """A server that fails on demand; subclasses answer.

    Attributes
    ----------
    port : int
        The same after every start.
    """

    scheme = "http"

    def __init__(self) -> None:
        self.port = reserve_port(self)
        self._faults: list[Fault] = []
        self._requests: list[Request] = []
        self._lock = threading.Condition()
        self._answering = 0
        self._healed = threading.Event()
        self._silent = False
        self._server: _Server | None = None
        self._thread: threading.Thread | None = None

    @property
    def url(self) -> str:
        """Address, without a slash at the end."""
        return f"{self.scheme}://{HOST}:{self.port}"

    # To be answered by subclasses

    def answer(self, incoming: Incoming) -> Answer:
        """Carry a request out."""
        raise NotImplementedError

    def damaged(self, incoming: Incoming, fault: Fault) -> Answer:
        """Carry a request out on a file with a fault of kind `bit` or `truncated`."""
        raise NotImplementedError

    def failure(self, status: int) -> Answer:
        """Return an error as this server writes it."""
        return Answer(status, f"status {status}\n".encode(), {"Content-Type": "text/plain"})

    def tls(self) -> ssl.SSLContext | None:
        """Return certificate and key, for a server with TLS."""
        return None

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
            raise RuntimeError("The server is running.")
        self._server = _Server(self)
        self._thread = threading.Thread(
            target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, name="faults", daemon=True
        )
        self._thread.start()

    def stop(self) -> None:
        """Stop listening, and break off all connections: for clients the server is absent."""
        if self._server is None or self._thread is None:
            return
        self._server.close()
        self._release()
        self._thread.join()
        self._server = self._thread = None

    @property
    def connections(self) -> list[socket.socket]:
        """Open connections of clients."""
        return list(self._server.connections) if self._server else []

    # Faults

    def inject(self, *faults: Fault) -> None:
        """Add faults; the first that matches a request happens."""
        with self._lock:
            self._faults.extend(faults)

    def silence(self) -> None:
        """Accept connections and never answer, not even a TLS handshake."""
        self._silent = True

    def heal(self) -> None:
        """Remove all faults, and end what waits on one."""
        with self._lock:
            self._faults.clear()
        self._silent = False
        self._release()

    def _release(self) -> None:
        with self._lock:
            healed, self._healed = self._healed, threading.Event()
        healed.set()

    def _fault_for(self, incoming: Incoming) -> Fault | None:
        with self._lock:
            return next((fault for fault in self._faults if fault.happens(incoming)), None)

    # Requests

    @property
    def requests(self) -> list[Request]:
        """All requests so far, in the order in which they came."""
        with self._lock:
            return [replace(request) for request in self._requests]

    def count(self, path: str = "", **attributes: object) -> int:
        """Return the number of requests whose path matches, and whose attributes are these."""
        return sum(
            re.search(path, request.path) is not None
            and all(getattr(request, name) == value for name, value in attributes.items())
            for request in self.requests
        )

    def forget(self) -> None:
        """Clear the list of requests."""
        with self._lock:
            self._requests.clear()

    def settle(self) -> None:
        """Wait until no answer is in progress: a client may have one before the server has noted it."""
        with self._lock:
            self._lock.wait_for(lambda: self._answering == 0, timeout=5)

    def _record(self, request: Request) -> None:
        with self._lock:
            self._requests.append(request)

    @contextmanager
    def _in_progress(self) -> Iterator[None]:
        with self._lock:
            self._answering += 1
        try:
            yield
        finally:
            with self._lock:
                self._answering -= 1
                self._lock.notify_all()


class _Handler(BaseHTTPRequestHandler):
    """Answers the requests of one connection, one after the other."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: _Server

    def log_message(self, format: str, *args: object) -> None:
        """Print nothing."""

    def _respond(self) -> None:
        owner, healed = self.server.owner, self.server.owner._healed
        incoming = Incoming(self.command, self.path, dict(self.headers.items()), self._body())
        fault = owner._fault_for(incoming)
        kind = fault.kind if fault else None
        request = Request(incoming.method, incoming.path, len(incoming.body), incoming.range, kind)
        owner._record(request)
        if fault is not None and kind == "timeout":
            healed.wait(fault.seconds)
            self.close_connection = True
            return
        with owner._in_progress():
            try:
                self._answer(request, incoming, fault, healed)
            except OSError:  # the client has gone
                self.close_connection = True

    do_GET = do_HEAD = do_POST = do_PUT = do_PATCH = do_DELETE = _respond

    def _answer(self, request: Request, incoming: Incoming, fault: Fault | None, healed: threading.Event) -> None:
        owner = self.server.owner
        if fault is None:
            self._carry_out(request, incoming)
        elif isinstance(fault.kind, int):
            failure = owner.failure(fault.kind) if fault.body is None else Answer(fault.kind, fault.body.encode())
            self._send(request, replace(failure, headers={**failure.headers, **fault.headers}))
        elif fault.kind == "reset":
            self._reset()
        elif fault.kind == "answer-lost":
            request.carried_out = True
            owner.answer(incoming)
            healed.wait(fault.seconds or 0)
            self._reset()
        elif fault.kind == "slow":
            healed.wait(fault.seconds or 0)
            self._carry_out(request, incoming)
        elif fault.kind == "html":
            self._send(request, Answer(200, _PAGE, {"Content-Type": "text/html"}))
        elif fault.kind == "ignore-range":
            self._carry_out(request, incoming.without("Range"))
        elif fault.kind == "short":
            self._send(request, owner.answer(incoming), short=True)
        else:
            self._send(request, owner.damaged(incoming, fault))

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
        self._send(request, self.server.owner.answer(incoming))

    def _send(self, request: Request, answer: Answer, short: bool = False) -> None:
        request.status = answer.status  # before the client has the answer, and counts
        self.send_response(answer.status)
        length = {} if answer.status == 204 else {"Content-Length": str(len(answer.body))}
        for name, value in {**length, **answer.headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "HEAD":
            return
        body = answer.body[: len(answer.body) // 2] if short else answer.body
        self.close_connection |= short
        self.wfile.write(body)
        request.sent = len(body)

    def _reset(self) -> None:
        """Close the connection such that the client reads RST: a linger time of zero, and no file object in between."""
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        os.close(self.connection.detach())
        self.close_connection = True


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = 256

    def __init__(self, owner: FaultServer) -> None:
        super().__init__((HOST, owner.port), _Handler)
        self.owner = owner
        self.connections: set[socket.socket] = set()
        self._tls = owner.tls()

    def finish_request(self, request: socket.socket, client_address: tuple[str, int]) -> None:  # type: ignore[override]
        """Serve a connection, in its thread: nothing that a client does holds up another."""
        with self._open(request):
            if self.owner._silent:
                self.owner._healed.wait()
                return
            secured = self._secured(request)
        if secured is not None:
            with self._open(secured), closing(secured):
                super().finish_request(secured, client_address)

    @contextmanager
    def _open(self, connection: socket.socket) -> Iterator[None]:
        self.connections.add(connection)
        try:
            yield
        finally:
            self.connections.discard(connection)

    def _secured(self, connection: socket.socket) -> socket.socket | None:
        """Return the connection to be used; None if the client gave up TLS, as for an unknown certificate."""
        if self._tls is None:
            return connection
        try:
            return self._tls.wrap_socket(connection, server_side=True)
        except OSError:
            return None

    def handle_error(self, request: object, client_address: object) -> None:
        """Report errors, except of a client that goes away during a request."""
        if not isinstance(sys.exc_info()[1], OSError):
            super().handle_error(request, client_address)  # type: ignore[arg-type]

    def close(self) -> None:
        """Stop listening, and end the connections that clients keep open."""
        self.shutdown()
        self.server_close()
        for connection in list(self.connections):
            with suppress(OSError):
                # Below the TLS layer, which another thread is using.
                socket.socket.shutdown(connection, socket.SHUT_RDWR)
