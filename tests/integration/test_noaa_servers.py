"""The servers of the tests answer, and fail, as they say."""

from __future__ import annotations

import http.client
import socket
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests
from noaa.servers import Fault, Server, http_server, s3_server

CONTENT = bytes(range(256)) * 40
KEY = "bucket/a/b.grib2"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / KEY
    path.parent.mkdir(parents=True)
    path.write_bytes(CONTENT)
    (tmp_path / "closed").mkdir()
    (tmp_path / "closed" / "c").write_bytes(b"c")
    return tmp_path


@pytest.fixture
def server(folder: Path) -> Iterator[Server]:
    with http_server(folder) as running:
        yield running


def get(server: Server, asked: str | None = None, method: str = "GET", **settings: float) -> requests.Response:
    headers = {"Range": f"bytes={asked}"} if asked else {}
    return requests.request(method, f"{server.url}/{KEY}", headers=headers, **{"timeout": 10, **settings})


def test_whole_file(server: Server) -> None:
    answer = get(server)
    assert (answer.status_code, answer.content) == (200, CONTENT)
    assert answer.headers["Accept-Ranges"] == "bytes"
    assert answer.headers["ETag"]
    assert answer.headers["Last-Modified"].endswith("GMT")
    head = get(server, method="HEAD")
    assert (head.status_code, head.content, head.headers["Content-Length"]) == (200, b"", str(len(CONTENT)))
    assert head.headers["ETag"] == answer.headers["ETag"]
    assert [(r.method, r.path, r.range, r.status, r.sent, r.fault) for r in server.requests] == [
        ("GET", f"/{KEY}", None, 200, len(CONTENT), None),
        ("HEAD", f"/{KEY}", None, 200, 0, None),
    ]
    assert (server.bytes_sent("b.grib2$"), server.bytes_sent(".idx$")) == (len(CONTENT), 0)
    server.forget()
    assert server.requests == []


@pytest.mark.parametrize(
    ("asked", "part", "said", "recorded"),
    [
        ("0-0", slice(0, 1), "bytes 0-0/10240", (0, 1)),
        ("100-299", slice(100, 300), "bytes 100-299/10240", (100, 300)),
        ("10200-99999", slice(10200, 10240), "bytes 10200-10239/10240", (10200, 100000)),
        ("10000-", slice(10000, 10240), "bytes 10000-10239/10240", (10000, sys.maxsize)),
        ("-40", slice(10200, 10240), "bytes 10200-10239/10240", (-40, sys.maxsize)),
    ],
)
def test_ranges(server: Server, asked: str, part: slice, said: str, recorded: tuple[int, int]) -> None:
    answer = get(server, asked)
    assert (answer.status_code, answer.content, answer.headers["Content-Range"]) == (206, CONTENT[part], said)
    assert server.requests[0].range == recorded


def test_what_is_not_there(server: Server) -> None:
    beyond = get(server, "10240-10300")
    assert (beyond.status_code, beyond.headers["Content-Range"]) == (416, "bytes */10240")
    assert requests.get(f"{server.url}/bucket/other", timeout=10).status_code == 404
    connection = http.client.HTTPConnection(server.url.removeprefix("http://"), timeout=10)
    connection.request("GET", "/../../../../etc/hostname")
    assert connection.getresponse().status == 404
    connection.close()


def test_connections_are_kept(server: Server) -> None:
    connection = http.client.HTTPConnection(server.url.removeprefix("http://"), timeout=10)
    connection.request("GET", f"/{KEY}")
    connection.getresponse().read()
    first = connection.sock
    for _ in range(20):
        connection.request("GET", f"/{KEY}", headers={"Range": "bytes=5-9"})
        assert connection.getresponse().read() == CONTENT[5:10]
        assert connection.sock is first
    (kept,) = server.connections
    assert kept.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)  # no answer waits for an acknowledgement
    connection.close()


@pytest.mark.parametrize("status", [429, 500, 503, 403, 404])
def test_statuses_so_often(server: Server, status: int) -> None:
    server.inject(Fault(r"b\.grib2$", status, times=2, headers={"Retry-After": "3"}))
    answers = [get(server, "0-9") for _ in range(3)]
    assert [answer.status_code for answer in answers] == [status, status, 206]
    assert [answer.headers.get("Retry-After") for answer in answers] == ["3", "3", None]
    assert [request.fault for request in server.requests] == [status, status, None]


def test_always_until_healed(server: Server) -> None:
    server.inject(Fault("b", 503), Fault("b", 500))
    assert [get(server).status_code for _ in range(3)] == [503] * 3
    assert "Retry-After" not in get(server).headers
    server.heal()
    assert get(server).status_code == 200


def test_only_there_and_only_then(server: Server) -> None:
    server.inject(Fault(r"\.idx$", 503), Fault("grib2", 500, when=lambda asked: asked is not None and asked[0] >= 100))
    assert [get(server, asked).status_code for asked in ("0-9", "100-109", None)] == [206, 500, 200]


def test_timeout(server: Server) -> None:
    server.inject(Fault("b", "timeout", times=1), Fault("b", "timeout", times=1, seconds=0.05))
    with pytest.raises(requests.exceptions.ReadTimeout):
        get(server, timeout=0.1)
    with pytest.raises(requests.exceptions.ConnectionError, match="closed connection"):
        get(server)
    assert get(server).status_code == 200


def test_reset(server: Server) -> None:
    server.inject(Fault("b", "reset", times=1))
    with pytest.raises(requests.exceptions.ConnectionError, match="reset by peer"):
        get(server)
    assert get(server).status_code == 200
    assert [(request.fault, request.status) for request in server.requests] == [("reset", 0), (None, 200)]


def test_short_read(server: Server) -> None:
    server.inject(Fault("b", "short", times=1))
    with pytest.raises(requests.exceptions.ChunkedEncodingError, match=r"50 bytes read, 50 more expected"):
        get(server, "0-99")
    assert get(server, "0-99").content == CONTENT[:100]


def test_ignored_range_and_page(server: Server) -> None:
    server.inject(Fault("b", "ignore-range", times=1), Fault("b", "html", times=1))
    whole, page = get(server, "0-99"), get(server, "0-99")
    assert (whole.status_code, whole.content) == (200, CONTENT)
    assert (page.status_code, page.headers["Content-Type"]) == (200, "text/html")
    assert page.content.startswith(b"<!DOCTYPE html>")


def damaged() -> bytes:
    return CONTENT[:300] + bytes([CONTENT[300] ^ 8]) + CONTENT[301:]


def test_flipped_bit(server: Server) -> None:
    server.inject(Fault("b", "bit", offset=300, bit=3))
    for asked, part in (("0-299", slice(0, 300)), ("300-301", slice(300, 302)), ("290-", slice(290, None))):
        assert get(server, asked).content == damaged()[part]
    assert get(server).content == damaged()
    assert [request.fault for request in server.requests] == [None, "bit", "bit", "bit"]


def test_truncated_file(server: Server) -> None:
    server.inject(Fault("b", "truncated", offset=1000))
    assert get(server).content == CONTENT[:1000]
    assert get(server, method="HEAD").headers["Content-Length"] == "1000"
    assert get(server, "990-1100").headers["Content-Range"] == "bytes 990-999/1000"
    assert get(server, "1000-1100").headers["Content-Range"] == "bytes */1000"


def test_many_at_once(server: Server) -> None:
    server.inject(Fault("b", 503, times=20))
    statuses: list[int] = []
    threads = [threading.Thread(target=lambda: statuses.append(get(server, "0-9").status_code)) for _ in range(50)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(statuses) == [206] * 30 + [503] * 20


def test_end_closes_what_is_open(folder: Path) -> None:
    ends: list[str] = []

    def hang() -> None:
        try:
            get(server)
        except requests.exceptions.ConnectionError as error:
            ends.append(str(error))

    with http_server(folder) as server:
        server.inject(Fault("b.grib2", "timeout"))
        hanging = threading.Thread(target=hang)
        hanging.start()
        session = requests.Session()
        session.get(f"{server.url}/closed/c", timeout=10)
        while not server.count(fault="timeout"):
            time.sleep(0.01)
    hanging.join()
    assert len(ends) == 1
    assert "without response" in ends[0]
    with pytest.raises(requests.exceptions.ConnectionError):
        session.get(f"{server.url}/closed/c", timeout=10)


@pytest.mark.parametrize("arguments", [{}, {"folder": Path(), "upstream": "http://127.0.0.1:1"}])
def test_one_origin(arguments: dict) -> None:
    with pytest.raises(ValueError, match="either a folder or an upstream"), http_server(**arguments):
        pass


def test_unknown_fault() -> None:
    with pytest.raises(ValueError, match="no fault 'bitflip'"):
        Fault("b", "bitflip")


def test_s3_behind_faults(folder: Path) -> None:
    """moto itself, what it gives without credentials, and the faults in front of it, read with the client of ours."""
    obstore = pytest.importorskip("obstore")
    from obstore.store import S3Store

    def store(endpoint: str, bucket: str) -> S3Store:
        return S3Store(
            bucket,
            endpoint=endpoint,
            region="us-east-1",
            skip_signature=True,
            virtual_hosted_style_request=False,
            client_options={"allow_http": True},
            retry_config={"max_retries": 0},
        )

    with s3_server(folder, private=["closed"]) as endpoint, http_server(upstream=endpoint) as server:
        for address in (endpoint, server.url):
            public = store(address, "bucket")
            assert bytes(obstore.get_range(public, "a/b.grib2", start=250, length=20)) == CONTENT[250:270]
            assert obstore.head(public, "a/b.grib2")["size"] == len(CONTENT)
            with pytest.raises(FileNotFoundError):
                obstore.get(public, "a/none")
            with pytest.raises(Exception, match=r"403|lacked the necessary privileges"):
                obstore.get(store(address, "closed"), "c")
        (found,) = obstore.list(public).collect()
        assert found["path"] == "a/b.grib2"

        server.inject(Fault("b.grib2", 503, times=1), Fault("b.grib2", "bit", times=1, offset=300, bit=3))
        with pytest.raises(Exception, match="503"):
            obstore.get_range(public, "a/b.grib2", start=0, length=10)
        assert bytes(obstore.get_range(public, "a/b.grib2", start=299, length=3)) == damaged()[299:302]
        server.inject(Fault("b.grib2", "truncated", times=1, offset=1000))
        assert obstore.head(public, "a/b.grib2")["size"] == 1000
        server.inject(Fault("b.grib2", "reset", times=1), Fault("b.grib2", "short", times=1))
        for _ in range(2):
            with pytest.raises(Exception, match=r"(?i)error"):
                obstore.get_range(public, "a/b.grib2", start=0, length=10)
        assert bytes(obstore.get_range(public, "a/b.grib2", start=0, length=10)) == CONTENT[:10]
