"""Servers for the tests: S3 by moto, and HTTP with ranges and with faults on demand.

The HTTP server runs in a thread of the test and answers other processes too; in front of an S3 server it passes on what
it is asked, so that S3 can fail in the same ways. As a process of its own, for benchmarks, with `tests` on the path:
`python -m noaa.servers DIR` prints its address and serves until its standard input ends.
"""

from __future__ import annotations

import os
import re
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import IO
from urllib.parse import unquote, urlsplit

HOST = "127.0.0.1"

# Whatever proxy the environment names, the servers are on this machine.
_DIRECTLY = urllib.request.build_opener(urllib.request.ProxyHandler({}))

# S3


@contextmanager
def s3_server(folder: Path, *, private: Sequence[str] = ()) -> Iterator[str]:
    """Run a moto server and yield its address.

    Parameters
    ----------
    folder : Path
        Each folder in it becomes a bucket, with all files below.
    private : sequence of str
        Buckets that are not to be read without credentials. The others are public.
    """
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        port = probe.getsockname()[1]
    endpoint = f"http://{HOST}:{port}"
    with tempfile.TemporaryFile() as log:
        command = [sys.executable, "-m", "moto.server", "-H", HOST, "-p", str(port)]
        server = subprocess.Popen(command, stdout=log, stderr=log, stdin=subprocess.DEVNULL)
        try:
            _wait_for(server, endpoint, log)
            upload(endpoint, folder, private=private)
            yield endpoint
        finally:
            server.terminate()
            server.wait()


def _wait_for(server: subprocess.Popen[bytes], endpoint: str, log: IO[bytes], patience_s: float = 60) -> None:
    deadline = time.monotonic() + patience_s
    while time.monotonic() < deadline and server.poll() is None:
        with suppress(OSError), _DIRECTLY.open(f"{endpoint}/moto-api/", timeout=5):
            return
        time.sleep(0.05)
    log.seek(0)
    raise RuntimeError(f"moto does not answer at {endpoint}: {log.read().decode()}")


def upload(endpoint: str, folder: Path, *, private: Sequence[str] = ()) -> None:
    """Put the files of a folder into a running server, as `s3_server` does at its start."""
    import boto3

    keys = {"aws_access_key_id": "test", "aws_secret_access_key": "test", "region_name": "us-east-1"}
    client = boto3.client("s3", endpoint_url=endpoint, **keys)
    for bucket in sorted(path for path in folder.iterdir() if path.is_dir()):
        access = "private" if bucket.name in private else "public-read"
        client.create_bucket(Bucket=bucket.name, ACL=access)
        for path in sorted(path for path in bucket.rglob("*") if path.is_file()):
            key = path.relative_to(bucket).as_posix()
            client.put_object(Bucket=bucket.name, Key=key, Body=path.read_bytes(), ACL=access)


# HTTP

ByteRange = tuple[int, int]
"""First byte and the one after the last."""


@dataclass
class Fault:
    """What goes wrong, where, and how often.

    Attributes
    ----------
    path : str
        Regular expression that is searched for in the path of a request, without its query.
    kind : int or str
        A status (429, 500, 503, 403, 404, ...), or

        - `timeout`: no answer for `seconds`, then the connection is closed;
        - `reset`: the connection is reset without an answer;
        - `short`: half of the body, under headers that promise all of it;
        - `ignore-range`: the whole file with status 200;
        - `html`: a page with status 200;
        - `bit`: bit `bit` of the byte at `offset` of the file is the other way round, in answers that have this byte;
        - `truncated`: the file ends at `offset`, as after a broken upload.
    times : int, optional
        How often it happens; always without it.
    when : callable, optional
        Takes the range asked for, or None for the whole file, and says whether it happens.
    retry_after_s : int, optional
        For a status: the header Retry-After.
    seconds, offset, bit
        See `kind`.
    """

    path: str
    kind: int | str
    times: int | None = None
    when: Callable[[ByteRange | None], bool] | None = None
    retry_after_s: int | None = None
    seconds: float = 3600.0
    offset: int = 0
    bit: int = 0

    def __post_init__(self) -> None:
        kinds = ("timeout", "reset", "short", "ignore-range", "html", "bit", "truncated")
        if not isinstance(self.kind, int) and self.kind not in kinds:
            raise ValueError(f"There is no fault {self.kind!r}: it is a status or one of {', '.join(kinds)}.")


@dataclass(frozen=True)
class Request:
    """One request and its answer.

    Attributes
    ----------
    method, path : str
        Without the query.
    range : tuple of int, optional
        First byte and the one after the last that were asked for, None for the whole file. An open range ends at
        `sys.maxsize`, and the last n bytes begin at -n.
    status : int
        0 if there was no answer.
    sent : int
        Bytes of the body that were sent.
    fault : int or str, optional
        Its kind.
    """

    method: str
    path: str
    range: ByteRange | None
    status: int
    sent: int
    fault: int | str | None


@dataclass
class Server:
    """A running HTTP server.

    Attributes
    ----------
    url : str
        Its address, without a slash at the end.
    """

    url: str
    _faults: list[Fault] = field(default_factory=list)
    _requests: list[Request] = field(default_factory=list)
    _lock: threading.Condition = field(default_factory=threading.Condition)
    _answering: int = 0
    _stopping: threading.Event = field(default_factory=threading.Event)

    def inject(self, *faults: Fault) -> None:
        """Faults to come; the first that fits a request happens."""
        with self._lock:
            self._faults.extend(faults)

    def heal(self) -> None:
        """No more faults."""
        with self._lock:
            self._faults.clear()

    @property
    def requests(self) -> list[Request]:
        """All requests so far, in the order in which they were finished.

        A client may have an answer before the server has written it down: requests in progress are waited for.
        """
        with self._lock:
            self._lock.wait_for(lambda: self._answering == 0, timeout=5)
            return list(self._requests)

    def forget(self) -> None:
        """Begin the list of requests anew."""
        with self._lock:
            self._lock.wait_for(lambda: self._answering == 0, timeout=5)
            self._requests.clear()

    def bytes_sent(self, path: str = "") -> int:
        """Bytes of all bodies sent for paths in which the regular expression `path` is found."""
        return sum(request.sent for request in self.requests if re.search(path, request.path))

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

    def _record(self, request: Request) -> None:
        with self._lock:
            self._requests.append(request)

    def _fault_for(self, path: str, asked: ByteRange | None) -> Fault | None:
        with self._lock:
            for fault in self._faults:
                if fault.times == 0 or not re.search(fault.path, path):
                    continue
                if fault.when is not None and not fault.when(asked):
                    continue
                if fault.kind == "bit" and asked is not None and not asked[0] <= fault.offset < asked[1]:
                    continue
                if fault.times is not None:
                    fault.times -= 1
                return fault
        return None


@dataclass(frozen=True)
class _Content:
    """What is served for a path: its length, headers of its own, and a way to read a part."""

    size: int
    headers: dict[str, str]
    read: Callable[[int, int], bytes]

    def with_fault(self, fault: Fault | None) -> _Content:
        if fault is None or fault.kind not in ("bit", "truncated"):
            return self
        if fault.kind == "truncated":
            return _Content(min(self.size, fault.offset), self.headers, self.read)

        def flipped(start: int, stop: int) -> bytes:
            part = bytearray(self.read(start, stop))
            if start <= fault.offset < start + len(part):
                part[fault.offset - start] ^= 1 << fault.bit
            return bytes(part)

        return _Content(self.size, self.headers, flipped)


def _file(folder: Path, path: str) -> _Content | None:
    file = (folder / unquote(path).lstrip("/")).resolve()
    if not file.is_relative_to(folder.resolve()) or not file.is_file():
        return None
    status = file.stat()

    def read(start: int, stop: int) -> bytes:
        with file.open("rb") as opened:
            opened.seek(start)
            return opened.read(stop - start)

    tag = f'"{status.st_mtime_ns:x}-{status.st_size:x}"'
    return _Content(status.st_size, {"ETag": tag, "Last-Modified": formatdate(status.st_mtime, usegmt=True)}, read)


_RANGE = re.compile(r"bytes=(\d*)-(\d*)")


def _range(header: str | None) -> ByteRange | None:
    """The range that a header asks for, None if it is not a single one; it may end at `sys.maxsize`.

    The last n bytes of a file, whose length is not known here, are (-n, sys.maxsize).
    """
    found = _RANGE.fullmatch(header.strip()) if header else None
    if found is None or found.groups() == ("", ""):
        return None
    first, last = found.groups()
    if not first:
        return -int(last), sys.maxsize
    return int(first), int(last) + 1 if last else sys.maxsize


_PASSED_ON = ("Range", "If-Match", "If-None-Match", "If-Modified-Since", "If-Unmodified-Since")
_PASSED_BACK = ("Content-Type", "Content-Range", "ETag", "Last-Modified", "Accept-Ranges")


class _Handler(BaseHTTPRequestHandler):
    """Answers GET and HEAD; the server's thread for a connection lives as long as the connection."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: _HTTPServer

    def do_GET(self) -> None:
        self._answer()

    def do_HEAD(self) -> None:
        self._answer()

    def log_message(self, format: str, *args: object) -> None:
        """Nothing on the terminal of the tests."""

    def _answer(self) -> None:
        path, state = urlsplit(self.path).path, self.server.state
        header = self.headers.get("Range")
        asked = _range(header)
        fault = state._fault_for(path, asked)
        if fault is not None and fault.kind == "timeout":
            state._record(Request(self.command, path, asked, 0, 0, fault.kind))
            state._stopping.wait(fault.seconds)
            self.close_connection = True
            return
        with state._in_progress():
            status, sent = 0, 0
            try:
                status, headers, body = self._respond(path, header, fault)
                if status:
                    sent = self._send(status, headers, body, short=fault is not None and fault.kind == "short")
            except OSError:  # the client has gone
                self.close_connection = True
            finally:
                kind = fault.kind if fault else None
                state._record(Request(self.command, path, asked, status, sent, kind))

    def _respond(self, path: str, header: str | None, fault: Fault | None) -> tuple[int, dict[str, str], bytes]:
        """Status, headers and body; the status is 0 if the connection was reset."""
        kind = fault.kind if fault else None
        if fault is not None and isinstance(kind, int):
            later = {} if fault.retry_after_s is None else {"Retry-After": str(fault.retry_after_s)}
            return kind, {"Content-Type": "text/plain", **later}, f"status {kind}\n".encode()
        if kind == "reset":
            self._reset()
            return 0, {}, b""
        if kind == "html":
            page = b"<!DOCTYPE html>\n<html><head><title>Maintenance</title></head><body>Back soon.</body></html>\n"
            return 200, {"Content-Type": "text/html"}, page
        if kind == "ignore-range":
            header = None
        if self.server.upstream is not None and kind not in ("bit", "truncated"):
            return self._forward(header, self.command)
        content = self._content(path)
        if content is None:
            return 404, {"Content-Type": "text/plain"}, b"Not found\n"
        return _part(content.with_fault(fault), header)

    def _content(self, path: str) -> _Content | None:
        if self.server.upstream is None:
            return _file(self.server.folder, path) if self.server.folder else None
        status, headers, body = self._forward(None, "GET")
        if status != 200:
            return None
        return _Content(len(body), headers, lambda start, stop: body[start:stop])

    def _forward(self, header: str | None, method: str) -> tuple[int, dict[str, str], bytes]:
        passed = {name: self.headers[name] for name in _PASSED_ON if name in self.headers and name != "Range"}
        if header is not None:
            passed["Range"] = header
        asked = urllib.request.Request(f"{self.server.upstream}{self.path}", headers=passed, method=method)
        try:
            answer = _DIRECTLY.open(asked, timeout=60)
        except urllib.error.HTTPError as error:
            answer = error  # it is an answer too
        with answer:
            headers = {name: answer.headers[name] for name in _PASSED_BACK if name in answer.headers}
            if method == "HEAD":
                headers["Content-Length"] = answer.headers.get("Content-Length", "0")
            return answer.status, headers, answer.read()

    def _send(self, status: int, headers: dict[str, str], body: bytes, *, short: bool) -> int:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "HEAD":
            return 0
        if short:
            body = body[: len(body) // 2]
            self.close_connection = True
        self.wfile.write(body)
        return len(body)

    def _reset(self) -> None:
        """Close the connection such that the client reads RST: a linger time of zero, and no file object in between."""
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        os.close(self.connection.detach())
        self.close_connection = True


def _part(content: _Content, header: str | None) -> tuple[int, dict[str, str], bytes]:
    """Status, headers and body for a range of a file."""
    headers = {**content.headers, "Accept-Ranges": "bytes"}
    headers.setdefault("Content-Type", "application/octet-stream")
    asked = _range(header)
    if asked is None:
        return 200, headers, content.read(0, content.size)
    start = asked[0] if asked[0] >= 0 else max(content.size + asked[0], 0)
    stop = min(asked[1], content.size)
    if start >= stop:
        return 416, {"Content-Range": f"bytes */{content.size}"}, b""
    headers["Content-Range"] = f"bytes {start}-{stop - 1}/{content.size}"
    return 206, headers, content.read(start, stop)


class _HTTPServer(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = 256

    def __init__(self, folder: Path | None, upstream: str | None) -> None:
        super().__init__((HOST, 0), _Handler)
        self.folder, self.upstream = folder, upstream
        self.state = Server(f"http://{HOST}:{self.server_port}")
        self._open: set[socket.socket] = set()

    def process_request_thread(self, request: socket.socket, client_address: tuple[str, int]) -> None:  # type: ignore[override]
        self._open.add(request)
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._open.discard(request)

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that goes away in the middle of a request is no news; anything else is."""
        if not isinstance(sys.exc_info()[1], OSError):
            super().handle_error(request, client_address)  # type: ignore[arg-type]

    def close(self) -> None:
        """Stop listening, and end the connections that clients keep open."""
        self.state._stopping.set()
        self.shutdown()
        self.server_close()
        for connection in list(self._open):
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)


@contextmanager
def http_server(folder: Path | None = None, *, upstream: str | None = None) -> Iterator[Server]:
    """Serve the files of a folder, or what another server has, in a thread.

    Parameters
    ----------
    folder : Path, optional
        Its files are read when they are asked for, and may change meanwhile.
    upstream : str, optional
        In place of a folder the address of another server, as `s3_server` yields it: requests are passed on to it.
    """
    if (folder is None) == (upstream is None):
        raise ValueError("Give either a folder or an upstream server.")
    server = _HTTPServer(folder, upstream)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield server.state
    finally:
        server.close()
        thread.join()


def main() -> None:
    with http_server(Path(sys.argv[1])) as server:
        print(server.url, flush=True)
        sys.stdin.read()


if __name__ == "__main__":
    main()
