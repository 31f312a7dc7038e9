"""Boundary-aware training of nested weather models on ECMWF's anemoi stack.

Importing this package costs milliseconds: nothing here, nor in the Hydra plugin,
imports torch, earthkit or mlflow at module level.
"""

from __future__ import annotations


def __getattr__(name: str) -> str:
    if name == "__version__":  # looked up when asked for: reading the metadata costs more than the rest
        from importlib.metadata import version

        return version("anemoi-house")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
