"""Copies of a run's artifacts, made by a thread: a training does not wait until a large file is copied."""

from __future__ import annotations

import errno
import hashlib
import io
import os
import re
import stat
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from queue import Empty, Full, Queue
from typing import Any, BinaryIO, NamedTuple

from anemoi_house.files import whole

SMALL_BYTES = 2**20
"""Files up to this size are read during the call; a larger one is kept open, and copied later."""
_WAITING = 64
_WAIT_FOR_ROOM_S = 5.0
_SUFFIX = re.compile(r"\.\w{1,16}", re.ASCII)

Clean = Callable[[BinaryIO], Iterator[bytes]]
Failed = Callable[[str], None]


class _Artifact(NamedTuple):
    source: BinaryIO
    before: os.stat_result
    path: str
    clean: Clean
    failed: Failed


class _Start(io.RawIOBase):
    """The first bytes of a file, not what is appended to it later."""

    def __init__(self, source: BinaryIO, size: int) -> None:
        self._source, self._left = source, size

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        piece = self._source.read(min(len(buffer), self._left))
        buffer[: len(piece)] = piece
        self._left -= len(piece)
        return len(piece)


class Copier:
    """Copies files into a spool, in the order in which they are given.

    Those who may not read a file may not read its copy. A file stays readable here if it is deleted or replaced after
    the call. If a large one is written to in place before it is copied, that is reported.

    Parameters
    ----------
    folder : Path
        Folder of the spool.
    put : callable
        Called with the record of each copy.

    Attributes
    ----------
    lost : int
        Files that could not be copied.
    """

    def __init__(self, folder: Path, put: Callable[[dict[str, Any]], None]) -> None:
        self._folder = folder
        self._put = put
        self._number = max((int(path.name[:6]) for path in (folder / "artifacts").glob("[0-9]" * 6 + "*")), default=0)
        self._waiting: Queue[_Artifact] = Queue(_WAITING)
        self._current: _Artifact | None = None
        self._full = False
        self.lost = 0
        self._thread = threading.Thread(target=self._work, name="artifacts", daemon=True)
        self._thread.start()

    def add(self, local: Path, path: str, clean: Clean, failed: Failed) -> None:
        """Take a file to be copied.

        Parameters
        ----------
        local : Path
        path : str
            Its name on the server.
        clean : callable
            Yields the content of an open file, without secrets.
        failed : callable
            Called with the reason if the file cannot be copied as it was.

        Raises
        ------
        OSError
            The file cannot be read, or too many others are waiting.
        """
        if not stat.S_ISREG(local.stat().st_mode):  # a named pipe would block
            raise OSError(errno.EINVAL, "not a regular file")
        source: BinaryIO = local.open("rb")
        before = os.fstat(source.fileno())
        if before.st_size <= SMALL_BYTES:
            with source:
                source = io.BytesIO(source.read())
        try:
            wait_s = 0 if self._full else _WAIT_FOR_ROOM_S  # a disk that hangs is waited for once
            self._waiting.put(_Artifact(source, before, path, clean, failed), timeout=wait_s)
            self._full = False
        except Full:
            self._full = True
            source.close()
            raise OSError(errno.EAGAIN, f"{_WAITING} others wait for a slow disk") from None

    def wait(self, wait_s: float) -> bool:
        """Wait until all files are copied; return whether they are."""
        with self._waiting.all_tasks_done:
            return self._waiting.all_tasks_done.wait_for(lambda: not self._waiting.unfinished_tasks, wait_s)

    def close(self, wait_s: float) -> None:
        """Copy the remaining files, for `wait_s` at most, and report those that are left."""
        if self.wait(wait_s):
            return
        current = self._current
        left = [current] if current else []
        try:
            while True:
                left.append(self._waiting.get_nowait())
        except Empty:
            for artifact in left:
                self._lose(artifact, "the training ended before it was copied")

    def _work(self) -> None:
        while True:
            self._current = artifact = self._waiting.get()
            try:
                self._copy(artifact)
            except OSError as refused:
                self._lose(artifact, refused.strerror or str(refused))
            except Exception as failure:  # it must not end this thread
                self._lose(artifact, f"{type(failure).__name__}: {failure}")
            self._current = None
            self._waiting.task_done()

    def _lose(self, artifact: _Artifact, why: str) -> None:
        self.lost += 1
        artifact.failed(why)

    def _copy(self, artifact: _Artifact) -> None:
        suffix = Path(artifact.path).suffix
        self._number += 1
        name = f"artifacts/{self._number:06d}{suffix if _SUFFIX.fullmatch(suffix) else ''}"
        digest, size = hashlib.sha256(), 0
        with artifact.source as source:
            with whole(self._folder / name) as temporary, temporary.open("wb") as copy:
                os.fchmod(copy.fileno(), os.fstat(copy.fileno()).st_mode & artifact.before.st_mode | 0o600)
                for piece in artifact.clean(io.BufferedReader(_Start(source, artifact.before.st_size))):
                    size += copy.write(piece)
                    digest.update(piece)
            if not isinstance(source, io.BytesIO) and _version(os.fstat(source.fileno())) != _version(artifact.before):
                artifact.failed("was written to before it was copied; the copy may hold later content, or parts of it")
        self._put({"kind": "artifact", "path": artifact.path, "file": name, "size": size, "sha256": digest.hexdigest()})


def _version(state: os.stat_result) -> tuple[int, int]:
    return state.st_size, state.st_mtime_ns
