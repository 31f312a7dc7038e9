"""Servers for the tests: S3 by moto, and HTTP with ranges and with faults on demand.

The HTTP server runs in threads of the test and answers other processes too; before an S3 server it passes requests on,
so that S3 can fail in the same ways. As a process of its own, for benchmarks, with `tests` on the path:
`python -m noaa.servers DIR` prints its address and serves until its standard input ends.
"""

from __future__ import annotations

import re
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from email.utils import formatdate
from pathlib import Path
from typing import IO

from faults.messages import Answer, Fault, Incoming, Request
from faults.server import HOST, FaultServer

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

_PASSED_ON = ("Range", "If-Match", "If-None-Match", "If-Modified-Since", "If-Unmodified-Since")
_PASSED_BACK = ("Content-Type", "Content-Range", "ETag", "Last-Modified", "Accept-Ranges")
_NOT_FOUND = Answer(404, b"Not found\n", {"Content-Type": "text/plain"})


class Server(FaultServer):
    """Serves the files of a folder, or what another server has.

    Parameters
    ----------
    folder : Path, optional
        Its files are read when they are asked for, and may change meanwhile.
    upstream : str, optional
        In place of a folder the address of another server, as `s3_server` yields it.
    """

    def __init__(self, folder: Path | None = None, upstream: str | None = None) -> None:
        if (folder is None) == (upstream is None):
            raise ValueError("Give either a folder or an upstream server.")
        super().__init__()
        self._folder, self._upstream = folder, upstream

    @property
    def requests(self) -> list[Request]:
        """All requests so far, in the order in which they came; those in progress are waited for."""
        self.settle()
        return super().requests

    def forget(self) -> None:
        """Clear the list of requests, once those in progress are answered."""
        self.settle()
        super().forget()

    def bytes_sent(self, path: str = "") -> int:
        """Return the bytes of all bodies sent for paths in which the regular expression `path` is found."""
        return sum(request.sent for request in self.requests if re.search(path, request.path))

    def answer(self, incoming: Incoming) -> Answer:
        """Return a file, or a part of it."""
        if self._upstream is not None:
            return self._forward(incoming)
        content = self._content(incoming)
        return _part(content, incoming) if content else _NOT_FOUND

    def damaged(self, incoming: Incoming, fault: Fault) -> Answer:
        """Return a file with a flipped bit, or one that was cut short, or a part of it."""
        content = self._content(incoming)
        return _part(content.with_fault(fault), incoming) if content else _NOT_FOUND

    def _content(self, incoming: Incoming) -> _Content | None:
        if self._folder is not None:
            return _file(self._folder, incoming.path)
        whole = self._forward(Incoming("GET", incoming.target, incoming.without("Range").headers, b""))
        if whole.status != 200:
            return None
        return _Content(len(whole.body), whole.headers, lambda start, stop: whole.body[start:stop])

    def _forward(self, incoming: Incoming) -> Answer:
        passed = {name: value for name in _PASSED_ON if (value := incoming.header(name))}
        asked = urllib.request.Request(f"{self._upstream}{incoming.target}", headers=passed, method=incoming.method)
        try:
            answer = _DIRECTLY.open(asked, timeout=60)
        except urllib.error.HTTPError as error:
            answer = error  # it is an answer too
        with answer:
            headers = {name: answer.headers[name] for name in _PASSED_BACK if name in answer.headers}
            if incoming.method == "HEAD":
                headers["Content-Length"] = answer.headers.get("Content-Length", "0")
            return Answer(answer.status, answer.read(), headers)


@dataclass(frozen=True)
class _Content:
    """What is served for a path: its length, its headers, and a function that reads a part."""

    size: int
    headers: Mapping[str, str]
    read: Callable[[int, int], bytes]

    def with_fault(self, fault: Fault) -> _Content:
        """Return the content with a flipped bit, or cut short."""
        if fault.kind == "truncated":
            return _Content(min(self.size, fault.offset), self.headers, self.read)

        def flipped(start: int, stop: int) -> bytes:
            part = bytearray(self.read(start, stop))
            if start <= fault.offset < start + len(part):
                part[fault.offset - start] ^= 1 << fault.bit
            return bytes(part)

        return _Content(self.size, self.headers, flipped)


def _file(folder: Path, path: str) -> _Content | None:
    file = (folder / path.lstrip("/")).resolve()
    if not file.is_relative_to(folder.resolve()) or not file.is_file():
        return None
    status = file.stat()

    def read(start: int, stop: int) -> bytes:
        with file.open("rb") as opened:
            opened.seek(start)
            return opened.read(stop - start)

    tag = f'"{status.st_mtime_ns:x}-{status.st_size:x}"'
    return _Content(status.st_size, {"ETag": tag, "Last-Modified": formatdate(status.st_mtime, usegmt=True)}, read)


def _part(content: _Content, incoming: Incoming) -> Answer:
    """Return the range of a file that a request asks for."""
    headers = {"Content-Type": "application/octet-stream", **content.headers, "Accept-Ranges": "bytes"}
    asked = incoming.range
    if asked is None:
        return Answer(200, content.read(0, content.size), headers)
    start = asked[0] if asked[0] >= 0 else max(content.size + asked[0], 0)
    stop = min(asked[1], content.size)
    if start >= stop:
        return Answer(416, b"", {"Content-Range": f"bytes */{content.size}"})
    return Answer(
        206, content.read(start, stop), {**headers, "Content-Range": f"bytes {start}-{stop - 1}/{content.size}"}
    )


def http_server(folder: Path | None = None, *, upstream: str | None = None) -> Server:
    """Return a server for the files of a folder, or before another server; it runs within a `with` block."""
    return Server(folder, upstream)


def main() -> None:
    with Server(Path(sys.argv[1])) as server:
        print(server.url, flush=True)
        sys.stdin.read()


if __name__ == "__main__":
    main()
