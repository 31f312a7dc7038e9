"""Tracking into a local MLflow store: a SQLite file, no server."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from anemoi.training.diagnostics.mlflow.logger import BaseAnemoiMLflowLogger
from anemoi.utils.mlflow.auth import NoAuth


class LocalMLflowLogger(BaseAnemoiMLflowLogger):
    """Stock MLflow logger on a SQLite file.

    The stock class asks a server for its health first, and its offline mode writes a file store, which
    MLflow refuses since 3.15.

    Parameters
    ----------
    save_dir : str
        Folder of the store: `mlflow.db`, and the artifacts below `artifacts`. It is made where it is missing.
    **kwargs : Any
        As of the stock logger.
    """

    def __init__(self, save_dir: str, **kwargs: Any) -> None:
        folder = Path(save_dir).resolve()
        (folder / "artifacts").mkdir(parents=True, exist_ok=True)
        kwargs["tracking_uri"] = f"sqlite:///{folder / 'mlflow.db'}"
        super().__init__(save_dir=str(folder), **kwargs)
        # Lightning passes this on when it creates the experiment; MLflow's own default is the working folder.
        self._artifact_location = (folder / "artifacts").as_uri()

    def _init_authentication(self) -> None:
        self.auth = NoAuth()
