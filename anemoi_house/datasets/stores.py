"""Places that hold an archive: S3 buckets, web servers, folders. Requests to them, repeated while a fault may pass.

Requests and S3 are obstore's, which anemoi-datasets itself reads object stores with.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from textwrap import shorten
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import urlsplit

import obstore
from obstore.exceptions import BaseError, NotSupportedError, PermissionDeniedError, UnauthenticatedError
from obstore.store import HTTPStore, LocalStore, S3Store

from anemoi_house.errors import HouseError

if TYPE_CHECKING:
    from obstore.store import ClientConfig, RetryConfig

LOG = logging.getLogger(__name__)

PATIENCE_S = 300.0
"""For how long a server that fails is asked again."""

FIRST_PAUSE_S, LONGEST_PAUSE_S = 1.0, 30.0

_T = TypeVar("_T")


class ArchiveError(HouseError):
    """A field that cannot be had, with the address and the reason."""


class AbsentError(ArchiveError):
    """The place answers, and does not hold the file."""


class UnreachableError(ArchiveError):
    """The place cannot be asked: whether it holds the file is not known."""


@dataclass(frozen=True)
class Root:
    """A place that holds an archive.

    Attributes
    ----------
    url : str
        `s3://bucket/folder`, `https://host/folder`, or a local folder.
    files : tuple of str or None
        Names of the files in it, as in `Model.layouts`; None for those of the model.
    region : str
        Of an S3 bucket.
    anonymous : bool
        Whether requests to S3 go unsigned, as public buckets want them.
    """

    url: str
    files: tuple[str, ...] | None = None
    region: str = "us-east-1"
    anonymous: bool = True

    @classmethod
    def of(cls, given: Any) -> Root:
        """Root from a recipe: an address, or a mapping with `url` and the other attributes."""
        if isinstance(given, Root):
            return given
        settings = {"url": given} if isinstance(given, str) else given
        if not isinstance(settings, dict) or not isinstance(settings.get("url"), str) or not settings["url"]:
            raise HouseError(f"roots: {given!r} is no root; give an address, or a mapping with url")
        unknown = sorted(set(settings) - {"url", "files", "region", "anonymous"})
        if unknown:
            raise HouseError(f"roots: {unknown[0]!r} is no key of a root; there are url, files, region, anonymous")
        files = settings.get("files")
        files = (files,) if isinstance(files, str) else files
        for pattern in files or ():
            try:
                pattern.format(run=datetime(2020, 1, 1), lead=0)
            except (KeyError, IndexError, ValueError, AttributeError):
                raise HouseError(
                    f"roots: files: {pattern!r} is no pattern of a file name; "
                    "write it like hrrr.{run:%Y%m%d}/conus/hrrr.t{run:%H}z.wrfprsf{lead:02d}.grib2"
                ) from None
        root = cls(**{**settings, "files": tuple(files) if files else None})
        if root.scheme not in ("s3", "http", "https", "file"):
            raise HouseError(f"roots: {root.url}: {root.scheme}:// is not known; give s3://, https:// or a folder")
        return root

    @property
    def scheme(self) -> str:
        """`s3`, `http`, `https` or `file`."""
        return urlsplit(self.url).scheme or "file"


class Place:
    """A root that is read.

    Parameters
    ----------
    root : Root
    patience_s : float
        For how long it is asked again while it fails.

    Raises
    ------
    UnreachableError
        For a local folder that is not there.
    """

    def __init__(self, root: Root, patience_s: float = PATIENCE_S) -> None:
        self.root, self.patience_s = root, patience_s
        self._store = _store(root, patience_s)

    def address(self, path: str) -> str:
        """Of a file, as messages give it."""
        return f"{self.root.url.rstrip('/')}/{path}"

    def head(self, path: str) -> tuple[int, str] | None:
        """Size in bytes, and a mark that changes with the content; None where there is no such file."""

        def ask() -> tuple[int, str] | None:
            found = obstore.head(self._store, path)
            return found["size"], str(found.get("e_tag") or found["last_modified"])

        return self._patiently(ask, self.address(path))

    def get(self, path: str) -> bytes | None:
        """Content of a small file; None where there is no such file."""
        return self._patiently(lambda: bytes(obstore.get(self._store, path).bytes()), self.address(path))

    def ranges(self, path: str, ranges: Sequence[tuple[int, int]]) -> list[bytes]:
        """Parts of a file, each given by its first byte and its length."""

        def ask() -> list[bytes]:
            # Ranges that touch go as one request; what lies between others would be fetched for nothing.
            got = obstore.get_ranges(
                self._store,
                path,
                starts=[offset for offset, _ in ranges],
                lengths=[length for _, length in ranges],
                coalesce=0,
            )
            return [bytes(content) for content in got]

        contents = self._patiently(ask, self.address(path))
        if contents is None:
            raise AbsentError(f"{self.address(path)} is not there")
        for (_, length), content in zip(ranges, contents):
            if len(content) != length:
                raise _beyond_the_end(self.address(path))
        return contents

    def _patiently(self, ask: Callable[[], _T], address: str) -> _T | None:
        """Answer to a request, repeated with growing pauses while the fault may pass; None for no such file."""
        until, pause = time.monotonic() + self.patience_s, FIRST_PAUSE_S
        while True:
            try:
                return ask()
            except FileNotFoundError as failure:
                if "NoSuchBucket" in str(failure):
                    raise UnreachableError(f"roots: {self.root.url}: there is no such bucket") from None
                return None
            except (PermissionDeniedError, UnauthenticatedError):
                raise UnreachableError(
                    f"{address}: access denied; check the root {self.root.url}, "
                    "or set anonymous: false for a bucket of your own"
                ) from None
            except NotSupportedError:
                raise UnreachableError(
                    f"{address}: the server gives no byte ranges; use another root, or a copy"
                ) from None
            except (BaseError, OSError) as failure:
                told = _first_line(failure)
                if _is_beyond_the_end(told):
                    raise _beyond_the_end(address) from None
                if time.monotonic() + pause > until:
                    raise UnreachableError(
                        f"{address}: {told}; given up after {self.patience_s:g} s; "
                        f"check that {self.root.url} is right and can be reached from here, then start again"
                    ) from None
                LOG.warning("%s: %s; trying again in %g s", address, told, pause)
                time.sleep(pause)
                pause = min(LONGEST_PAUSE_S, 2 * pause)


def _store(root: Root, patience_s: float) -> Any:
    url = urlsplit(root.url)
    # A request that hangs is given up while there is patience left for others.
    timeout = timedelta(seconds=max(1.0, min(60.0, patience_s / 3)))
    client: ClientConfig = {
        "timeout": timeout,
        "connect_timeout": min(timeout, timedelta(seconds=10)),
        "allow_http": True,
    }
    # One quick repetition is the library's; the patient ones are ours, which are told of in the log.
    retries: RetryConfig = {"max_retries": 1, "retry_timeout": timedelta(seconds=patience_s)}
    match root.scheme:
        case "file":
            folder = Path(url.path if url.scheme else root.url).expanduser()
            if not folder.is_dir():
                raise UnreachableError(f"roots: {root.url}: there is no such folder")
            return LocalStore(folder.absolute())
        case "s3":
            return S3Store(
                url.netloc,
                prefix=url.path.strip("/") or None,
                region=root.region,
                skip_signature=root.anonymous,
                client_options=client,
                retry_config=retries,
            )
        case _:
            return HTTPStore.from_url(root.url, client_options=client, retry_config=retries)


def _first_line(failure: Exception) -> str:
    """What happened, without what obstore says around it: the address again, its own settings, the answer's body."""
    line = str(failure).strip().splitlines()[0]
    return shorten(line.rsplit(" - ", 1)[-1].removeprefix("Generic HTTP error: ").rstrip(" :"), 160)


def _is_beyond_the_end(told: str) -> bool:
    # The first is a server's answer, the second what obstore says of a local file.
    return "416" in told or "range was invalid" in told


def _beyond_the_end(address: str) -> ArchiveError:
    return ArchiveError(f"{address} ends before what its index lists: it is cut short, or the index is another file's")
