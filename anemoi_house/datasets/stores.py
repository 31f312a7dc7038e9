"""Stores that hold an archive: S3 buckets, web servers and directories. Requests are retried while a fault may pass.

obstore makes the requests; anemoi-datasets reads object stores with it too.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from datetime import datetime, timedelta
from pathlib import Path
from textwrap import shorten
from typing import Any, TypeVar
from urllib.parse import urlsplit

import obstore
from obstore.exceptions import BaseError, NotSupportedError, PermissionDeniedError, UnauthenticatedError
from obstore.store import HTTPStore, LocalStore, S3Store

from anemoi_house.errors import HouseError
from anemoi_house.words import listed

LOG = logging.getLogger(__name__)

PATIENCE_S = 300.0
"""How long a failing request is retried."""

FIRST_PAUSE_S, LONGEST_PAUSE_S = 1.0, 30.0

_T = TypeVar("_T")


class ArchiveError(HouseError):
    """A field cannot be read; the message is an address and the reason, without a full stop."""


class AbsentError(ArchiveError):
    """The store answers, and does not hold the file."""


class UnreachableError(ArchiveError):
    """The store does not answer, so that it is unknown whether it holds the file."""


@dataclass(frozen=True)
class StoreSettings:
    """One of the `roots` of a recipe: a store, and how to ask it.

    Attributes
    ----------
    url : str
        `s3://bucket/folder`, `https://host/folder`, or a local directory.
    files : tuple of str or None
        Names of its files, as one of `Model.layouts`; None for the model's own layouts.
    region : str
        Region of an S3 bucket.
    anonymous : bool
        Send unsigned requests to S3, as public buckets require.
    """

    url: str
    files: tuple[str, ...] | None = None
    region: str = "us-east-1"
    anonymous: bool = True

    @classmethod
    def of(cls, given: Any) -> StoreSettings:
        """Return the settings that a recipe gives as a URL, or as a mapping of the attributes.

        Raises
        ------
        HouseError
            For any other type, an unknown key, an invalid pattern in `files`, or an unknown kind of URL.
        """
        given = {"url": given} if isinstance(given, str) else given
        if not isinstance(given, dict) or not isinstance(given.get("url"), str) or not given["url"]:
            raise HouseError(f"roots: {given!r} is invalid. Give a URL, or a mapping with url.")
        keys = [field.name for field in fields(cls)]
        if unknown := sorted(set(given) - set(keys)):
            raise HouseError(f"roots: {unknown[0]!r} is not a key of a root. Use {listed(keys)}.")
        files = given.get("files")
        files = (files,) if isinstance(files, str) else tuple(files or ())
        for pattern in files:
            _check_pattern(pattern)
        settings = cls(**{**given, "files": files or None})
        if settings.scheme not in ("s3", "http", "https", "file"):
            raise HouseError(
                f"roots: {settings.url}: {settings.scheme}:// is not supported. Give s3://, https:// or a directory."
            )
        return settings

    @property
    def scheme(self) -> str:
        """`s3`, `http`, `https` or `file`."""
        return urlsplit(self.url).scheme or "file"


def _check_pattern(pattern: Any) -> None:
    try:
        pattern.format(run=datetime(2020, 1, 1), lead=0)
    except (KeyError, IndexError, ValueError, AttributeError):
        raise HouseError(
            f"roots: files: {pattern!r} is not a valid pattern of a file name. "
            "Write it like hrrr.{run:%Y%m%d}/conus/hrrr.t{run:%H}z.wrfprsf{lead:02d}.grib2."
        ) from None


class Store:
    """An open store.

    Parameters
    ----------
    settings : StoreSettings
    patience_s : float
        How long a failing request is retried.

    Raises
    ------
    UnreachableError
        If a local directory does not exist.
    """

    def __init__(self, settings: StoreSettings, patience_s: float = PATIENCE_S) -> None:
        self.settings, self.patience_s = settings, patience_s
        self._store = _opened(settings, patience_s)

    def address(self, path: str) -> str:
        """Return the address of a file, for messages."""
        return f"{self.settings.url.rstrip('/')}/{path}"

    def head(self, path: str) -> tuple[int, str] | None:
        """Return the size of a file in bytes and a tag that changes with its content; None if it does not exist."""

        def ask() -> tuple[int, str]:
            found = obstore.head(self._store, path)
            return found["size"], str(found.get("e_tag") or found["last_modified"])

        return self._patiently(ask, self.address(path))

    def get(self, path: str) -> bytes | None:
        """Return the content of a small file; None if it does not exist."""
        return self._patiently(lambda: bytes(obstore.get(self._store, path).bytes()), self.address(path))

    def ranges(self, path: str, ranges: Sequence[tuple[int, int]]) -> list[bytes]:
        """Return parts of a file, each given by its first byte and its length.

        Raises
        ------
        ArchiveError
            If the file does not exist or is too short.
        """
        starts, lengths = zip(*ranges)

        def ask() -> list[bytes]:
            # Touching ranges become one request; a larger gap would be fetched for nothing.
            parts = obstore.get_ranges(self._store, path, starts=starts, lengths=lengths, coalesce=0)
            return [bytes(part) for part in parts]

        address = self.address(path)
        parts = self._patiently(ask, address)
        if parts is None:
            raise AbsentError(f"{address} does not exist")
        if any(len(part) != length for part, length in zip(parts, lengths)):
            raise _beyond_the_end(address)
        return parts

    def _patiently(self, ask: Callable[[], _T], address: str) -> _T | None:
        """Return the answer to a request, retried while its failure may pass; None for a file that does not exist."""
        until, pause = time.monotonic() + self.patience_s, FIRST_PAUSE_S
        while True:
            try:
                return ask()
            except FileNotFoundError as failure:
                if "NoSuchBucket" in str(failure):
                    raise UnreachableError(f"roots: {self.settings.url}: the bucket does not exist") from None
                return None
            except (BaseError, OSError) as failure:
                if lasting := self._lasting(failure, address):
                    raise lasting from None
                reason = _short(failure)
            if time.monotonic() + pause > until:
                raise UnreachableError(
                    f"{address}: {reason}; gave up after {self.patience_s:g} s. "
                    f"Check that {self.settings.url} is correct and reachable from here, and start again"
                )
            LOG.warning("%s: %s; retrying in %g s", address, reason, pause)
            time.sleep(pause)
            pause = min(LONGEST_PAUSE_S, 2 * pause)

    def _lasting(self, failure: Exception, address: str) -> ArchiveError | None:
        """Return the error for a failure that would not pass; None for one that may."""
        if isinstance(failure, PermissionDeniedError | UnauthenticatedError):
            return UnreachableError(
                f"{address}: access denied. Check the root {self.settings.url}, or set anonymous: false for a private "
                "bucket"
            )
        if isinstance(failure, NotSupportedError):
            return UnreachableError(f"{address}: the server does not support byte ranges. Use another root, or a copy")
        # A server's answer, or obstore's words for a local file.
        if "416" in (reason := _short(failure)) or "range was invalid" in reason:
            return _beyond_the_end(address)
        return None


def _opened(settings: StoreSettings, patience_s: float) -> Any:
    url = urlsplit(settings.url)
    if settings.scheme == "file":
        folder = Path(url.path if url.scheme else settings.url).expanduser()
        if not folder.is_dir():
            raise UnreachableError(f"roots: {settings.url}: the directory does not exist")
        return LocalStore(folder.absolute())
    # Short of the patience, so that a request that hangs can be repeated.
    timeout = timedelta(seconds=max(1.0, min(60.0, patience_s / 3)))
    connect_timeout = min(timeout, timedelta(seconds=10))
    options: dict[str, Any] = {
        "client_options": {"timeout": timeout, "connect_timeout": connect_timeout, "allow_http": True},
        # obstore retries once, quickly; `_patiently` does the rest, and logs it.
        "retry_config": {"max_retries": 1, "retry_timeout": timedelta(seconds=patience_s)},
    }
    if settings.scheme != "s3":
        return HTTPStore.from_url(settings.url, **options)
    return S3Store.from_url(settings.url, region=settings.region, skip_signature=settings.anonymous, **options)


def _short(failure: Exception) -> str:
    """Return what happened, without the address, settings and body of the answer that obstore puts around it."""
    line = str(failure).strip().splitlines()[0]
    return shorten(line.rsplit(" - ", 1)[-1].removeprefix("Generic HTTP error: ").rstrip(" :"), 160)


def _beyond_the_end(address: str) -> ArchiveError:
    return ArchiveError(f"{address} ends before what its index lists: it is cut short, or the index is another file's")
