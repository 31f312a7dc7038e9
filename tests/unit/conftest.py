"""Fixtures of the unit tests."""

from __future__ import annotations

import copy
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from omegaconf import OmegaConf
from small_grids import DATES, globe_grid, lam_grid, write_store
from torch_geometric.data import HeteroData

from anemoi_house.plugin import registration, resolvers
from anemoi_house.shipped import config_folder


@pytest.fixture(autouse=True)
def _no_settings_of_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hide the developer's exported paths and a SLURM job's variables from the tests."""
    for name in os.environ:
        if name.startswith(("HOUSE_", "SLURM_")):
            monkeypatch.delenv(name)


@pytest.fixture(scope="session")
def registered() -> None:
    """Register our resolvers and schemas, as the plugin does in a training."""
    import anemoi.training.schemas.base_schema  # noqa: F401

    resolvers.register()
    registration.register()


@pytest.fixture(scope="session")
def _tiny_nodes() -> HeteroData:
    from anemoi_house.sample.grids import GRIDS, nodes

    return nodes(GRIDS["tiny"])


@pytest.fixture
def tiny_nodes(_tiny_nodes: HeteroData) -> HeteroData:
    """Nodes of the tiny nested grid, without edges."""
    return copy.copy(_tiny_nodes)


@pytest.fixture(scope="session")
def stores(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Write a LAM and a global dataset that fit each other."""
    folder = tmp_path_factory.mktemp("stores")
    return write_store(folder / "hrrr.zarr", *lam_grid()), write_store(folder / "gfs.zarr", *globe_grid())


@pytest.fixture(scope="session")
def sample(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write two small datasets with the variables that our configs name and the sample's dates; return their folder."""
    folder = tmp_path_factory.mktemp("sample")
    used = OmegaConf.load(config_folder() / "data" / "house_gfs_hrrr.yaml").datasets.data
    plotted = OmegaConf.load(config_folder() / "diagnostics" / "plot" / "house_nested.yaml").parameters
    variables = tuple(dict.fromkeys([*plotted, *used.forcing, *used.diagnostic]))
    dates = DATES[0] + np.arange(120) * np.timedelta64(6, "h")
    write_store(folder / "hrrr.zarr", *lam_grid(12, 14, 1.5), variables, dates)
    write_store(folder / "gfs.zarr", *globe_grid(), variables, dates)
    return folder


@pytest.fixture
def hydra_cleared() -> Iterator[None]:
    """Clear Hydra's global state before and after a test."""
    from hydra.core.global_hydra import GlobalHydra

    GlobalHydra.instance().clear()
    yield
    GlobalHydra.instance().clear()
