"""A front as a process of its own, for benchmarks: it uses no time of the process that is timed.

`python -m tracking.separate plain|azure UPSTREAM FOLDER`, with `tests` on the path, prints its address in JSON, and
carries out the lines of its standard input until that ends. `SeparateFront` does all of this.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from tracking.azure import AzureFront
from tracking.front import Front
from tracking.mlflow_server import TESTS, MlflowServer

_CALLS = ("fail", "silence", "heal", "start", "stop", "count", "forget")


class SeparateFront:
    """A front in another process.

    Parameters
    ----------
    kind : str
        `plain` or `azure`.
    upstream : MlflowServer or str
    folder : Path
        Holds the certificates.

    Attributes
    ----------
    uri : str
    environment : dict
        As for `Front` and `AzureFront`.
    """

    def __init__(self, kind: str, upstream: MlflowServer | str, folder: Path) -> None:
        address = upstream if isinstance(upstream, str) else upstream.uri
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tracking.separate", kind, address, str(folder)],
            env=os.environ | {"PYTHONPATH": str(TESTS)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        told = self._read()
        self.uri: str = told["uri"]
        self.environment: dict[str, str] = told["environment"]

    def __enter__(self) -> SeparateFront:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def call(self, name: str, *values: object, **named: object) -> object:
        """Call a method of the front: `fail`, `silence`, `heal`, `start`, `stop`, `count` or `forget`."""
        assert self._process.stdin is not None
        print(json.dumps([name, values, named]), file=self._process.stdin, flush=True)
        return self._read()

    def close(self) -> None:
        """End the process."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()

    def _read(self) -> dict:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError("The front has ended; its output is above.")
        return json.loads(line)


def main() -> None:
    kind, upstream, folder = sys.argv[1:]
    with AzureFront(upstream, Path(folder)) if kind == "azure" else Front(upstream) as front:
        print(json.dumps({"uri": front.uri, "environment": front.environment}), flush=True)
        for line in sys.stdin:
            name, values, named = json.loads(line)
            if name not in _CALLS:
                raise ValueError(f"{name}: not a method that another process may call.")
            print(json.dumps(getattr(front, name)(*values, **named)), flush=True)


if __name__ == "__main__":
    main()
