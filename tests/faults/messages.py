"""Faults of the HTTP server of the tests, its requests and its answers."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from urllib.parse import unquote, urlsplit

KINDS = ("timeout", "reset", "answer-lost", "slow", "short", "ignore-range", "html", "bit", "truncated")

ByteRange = tuple[int, int]
"""First byte and the one after the last."""

_RANGE = re.compile(r"bytes=(\d*)-(\d*)")


@dataclass
class Fault:
    """What goes wrong, where, and how often.

    Attributes
    ----------
    path : str
        Regular expression that is searched for in the path of a request, without its query.
    kind : int or str
        A status (429, 500, ...): the answer has it, with `headers` and `body`, and the request is not carried out; or

        - `timeout`: no answer for `seconds`, or until `heal`; then the connection is closed;
        - `reset`: the connection is reset, and the request is not carried out;
        - `answer-lost`: the request is carried out, and the connection is reset `seconds` later without an answer;
        - `slow`: the request is carried out and answered `seconds` later;
        - `short`: half of the body, under headers that promise all of it;
        - `ignore-range`: the answer to a request for the whole file;
        - `html`: a page with status 200;
        - `bit`: bit `bit` of the byte at `offset` of the file is flipped, in answers that have this byte;
        - `truncated`: the file ends at `offset`, as after a broken upload.
    times : int, optional
        How often it happens; always without it.
    method : str, optional
        Any without it.
    after : int
        Number of matching requests that pass before it happens.
    when : callable, optional
        Takes the range of a request, or None for the whole file, and returns whether it happens.
    headers, body
        Of a status; by default the body is an error as the server writes it.
    seconds, offset, bit
        See `kind`.
    """

    path: str
    kind: int | str
    times: int | None = None
    method: str | None = None
    after: int = 0
    when: Callable[[ByteRange | None], bool] | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    body: str | None = None
    seconds: float | None = None
    offset: int = 0
    bit: int = 0
    _matched: int = 0
    _happened: int = 0

    def __post_init__(self) -> None:
        if not isinstance(self.kind, int) and self.kind not in KINDS:
            raise ValueError(f"There is no fault {self.kind!r}: it is a status or one of {', '.join(KINDS)}.")

    def happens(self, incoming: Incoming) -> bool:
        """Count a request, and return whether it meets the fault."""
        if not re.search(self.path, incoming.path) or self.method not in (None, incoming.method):
            return False
        asked = incoming.range
        if self.when is not None and not self.when(asked):
            return False
        if self.kind == "bit" and asked is not None and not asked[0] <= self.offset < asked[1]:
            return False
        self._matched += 1
        if self._matched <= self.after or (self.times is not None and self._happened >= self.times):
            return False
        self._happened += 1
        return True


@dataclass
class Request:
    """A request, and what became of it.

    Attributes
    ----------
    method, path : str
        The path without its query, and unquoted.
    size : int
        Bytes of its body.
    range : tuple of int, optional
        First byte and the one after the last that were asked for, None for the whole file. An open range ends at
        `sys.maxsize`, and the last n bytes begin at -n.
    fault : int or str, optional
        The kind of the fault that it met.
    status : int
        0 if there was no answer.
    sent : int
        Bytes of the body that were sent.
    carried_out : bool
        Whether the server acted on it.
    """

    method: str
    path: str
    size: int
    range: ByteRange | None
    fault: int | str | None
    status: int = 0
    sent: int = 0
    carried_out: bool = False


@dataclass(frozen=True)
class Incoming:
    """A request as it was sent; `target` is the path as it was quoted, with its query."""

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

    @property
    def range(self) -> ByteRange | None:
        """The range that it asks for; None if it is not a single one."""
        found = _RANGE.fullmatch(self.header("Range").strip())
        if found is None or found.groups() == ("", ""):
            return None
        first, last = found.groups()
        if not first:
            return -int(last), sys.maxsize
        return int(first), int(last) + 1 if last else sys.maxsize

    def header(self, name: str) -> str:
        """Return a header, or an empty text."""
        return next((value for given, value in self.headers.items() if given.lower() == name.lower()), "")

    def without(self, name: str) -> Incoming:
        """Return the request without a header."""
        return replace(self, headers={key: value for key, value in self.headers.items() if key.lower() != name.lower()})


@dataclass(frozen=True)
class Answer:
    """What is sent back."""

    status: int
    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, status: int, content: object, headers: Mapping[str, str] | None = None) -> Answer:
        """Return an answer in JSON."""
        return cls(status, json.dumps(content).encode(), {"Content-Type": "application/json"} | dict(headers or {}))
