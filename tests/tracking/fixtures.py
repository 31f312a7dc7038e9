"""Fixtures, to be imported where they are used: an MLflow server for each test, and fronts before it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tracking.azure import AzureFront
from tracking.front import Front
from tracking.mlflow_server import MlflowServer, make_database


@pytest.fixture(scope="session")
def template_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty database of MLflow."""
    return make_database(tmp_path_factory.mktemp("mlflow-template"))


@pytest.fixture
def mlflow_server(template_database: Path, tmp_path: Path) -> Iterator[MlflowServer]:
    """A running MLflow server, empty."""
    with MlflowServer(tmp_path / "mlflow-server", template=template_database) as server:
        yield server


@pytest.fixture
def plain_front(mlflow_server: MlflowServer) -> Iterator[Front]:
    """A front before it that fails on demand."""
    with Front(mlflow_server) as front:
        yield front


@pytest.fixture
def azure_front(mlflow_server: MlflowServer, tmp_path: Path) -> Iterator[AzureFront]:
    """An Azure ML workspace before it."""
    with AzureFront(mlflow_server, tmp_path / "azure") as front:
        yield front
