"""Boundary-aware training of nested weather models on ECMWF's anemoi stack.

Importing this package costs milliseconds: nothing here, nor in the Hydra plugin,
imports torch, earthkit or mlflow at module level.
"""

from __future__ import annotations

from importlib.metadata import version

__version__ = version("anemoi-house")
