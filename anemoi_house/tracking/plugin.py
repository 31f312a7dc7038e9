"""Entry points by which MLflow finds the spool; a module of their own, as MLflow loads them on every import."""

from __future__ import annotations

from typing import Any


def tracking_store(store_uri: str, artifact_uri: str | None = None, **_: Any) -> Any:
    """Return the tracking store of `house-spool:///FOLDER`; only in the process that writes the spool."""
    from anemoi_house.tracking.store import SpoolStore

    return SpoolStore.of(store_uri)


def artifact_repository(artifact_uri: str, **settings: Any) -> Any:
    """Return the artifacts of the run whose spool is at `house-spool:///FOLDER`."""
    from anemoi_house.tracking.store import SpoolArtifacts

    return SpoolArtifacts(artifact_uri, **settings)
