"""Files that are written whole or not at all: under a temporary name, then renamed."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def whole(path: Path) -> Iterator[Path]:
    """Yield a temporary path next to `path`, which replaces `path` if the block ends without an error.

    The temporary name keeps the suffix of `path`, by which libraries choose a format. It is removed after an error.

    Parameters
    ----------
    path : Path
        File to write. Its folder must exist.
    """
    temporary = path.with_name(f".{path.stem}.{os.getpid()}-{threading.get_ident()}.part{path.suffix}")
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_whole(path: Path, data: bytes | str) -> None:
    """Write bytes, or text as UTF-8, whole or not at all."""
    with whole(path) as temporary:
        temporary.write_bytes(data.encode() if isinstance(data, str) else data)
