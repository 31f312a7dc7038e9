"""Graph builders that know where the nested boundary is.

`coverage` has the mathematics (arrays in, arrays out), next to `boundary.regions`. `attributes`, `edges` and `record`
are thin anemoi-graphs classes over it. They are imported on first use, because they import torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

_HOMES = {
    "BoundaryAwareKNNEdges": "edges",
    "BoundaryRing": "attributes",
    "CoveringKNNEdges": "edges",
    "GraphRecord": "record",
}

__all__ = sorted(_HOMES)


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
