"""Entry points by which MLflow finds the spool: kept apart, as MLflow loads them whenever it is imported."""

from __future__ import annotations

from typing import Any

SCHEME = "house-spool"


def tracking_store(store_uri: str, artifact_uri: str | None = None, **_: Any) -> Any:
    """Tracking store of `house-spool:///FOLDER`; only for the process that writes the spool."""
    from anemoi_house.tracking.store import SpoolStore

    return SpoolStore.of(store_uri)


def artifact_repository(artifact_uri: str, **settings: Any) -> Any:
    """Artifacts of the run whose spool is at `house-spool:///FOLDER`."""
    from anemoi_house.tracking.store import SpoolArtifacts

    return SpoolArtifacts(artifact_uri, **settings)
