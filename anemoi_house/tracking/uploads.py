"""Artifacts on their way to a server, under names that it accepts."""

from __future__ import annotations

import hashlib
import re
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Any

from anemoi_house.tracking.servers.base import Server
from anemoi_house.tracking.servers.failures import ExistsError

_NOT_KEPT = re.compile(r"[?#%\\\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")
_LONGEST_NAME = 200


class Uploads:
    """Sends files; a server that never overwrites gets each version under a name of its own.

    Parameters
    ----------
    server : Server

    Attributes
    ----------
    versions : Counter
        How often each path was sent.
    """

    def __init__(self, server: Server) -> None:
        self._server = server
        self.versions: Counter[str] = Counter()

    def send(self, run_id: str, local: Path, path: str, digest: str) -> None:
        """Send a file under its path or, if that is taken for good, under the first free name after it.

        Parameters
        ----------
        digest : str
            SHA-256 of the file, by which one that has arrived already is recognised.
        """
        if self._server.overwrites:
            self._server.upload(run_id, local, path)
            return
        arrived = False
        while not arrived:
            name = numbered(path, self.versions[path] + 1)
            try:
                self._server.upload(run_id, local, name)
                arrived = True
            except ExistsError:
                content = self._server.artifact(run_id, name)
                arrived = content is not None and hashlib.sha256(content).hexdigest() == digest
            self.versions[path] += 1

    def send_bytes(self, run_id: str, content: bytes, path: str) -> None:
        """Send content as a file."""
        with as_file(content) as local:
            self.send(run_id, local, path, hashlib.sha256(content).hexdigest())


def fitting(path: str) -> str:
    """Return the name under which an artifact is sent: its path, or one like it that every server keeps as it is.

    MLflow decodes names once more than clients encode them, and file systems have names of at most 255 bytes.
    """
    parts = []
    for part in path.split("/"):
        plain = _NOT_KEPT.sub("_", part)
        if plain != part or len(plain.encode()) > _LONGEST_NAME:
            pure = PurePosixPath(plain)
            stem = pure.stem.encode()[:150].decode(errors="ignore")
            suffix = pure.suffix.encode()[:30].decode(errors="ignore")
            plain = f"{stem}-{hashlib.sha256(part.encode(errors='replace')).hexdigest()[:8]}{suffix}"
        parts.append(plain)
    return "/".join(parts)


def numbered(path: str, number: int) -> str:
    """Return the name of the nth version of a path: the path itself, `plots/a.2.png` for the second."""
    if number == 1:
        return path
    pure = PurePosixPath(path)
    return str(pure.with_name(f"{pure.stem}.{number}{pure.suffix}"))


@contextmanager
def as_file(content: bytes) -> Iterator[Path]:
    """Yield a temporary file with some content."""
    with tempfile.NamedTemporaryFile() as file:
        file.write(content)
        file.flush()
        yield Path(file.name)


def problem_with(folder: Path, artifact: Mapping[str, Any]) -> str:
    """Return what is wrong with the file of an artifact's record, in the folder of a spool; empty if nothing is."""
    try:
        size = (folder / artifact["file"]).stat().st_size
    except OSError as missing:
        return f"{artifact['file']}: {missing.strerror}"
    return "" if size == artifact["size"] else f"{artifact['file']} is damaged"
