"""Write forecasts as `anemoi-house forecast` does, from arrays: no model, no data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from netCDF4 import Dataset

from anemoi_house.forecast.read import SIDECAR, About


def fabricate(
    folder: Path,
    date: str,
    leads_h: Sequence[int],
    fields: Mapping[str, Any],
    latitudes: Any,
    longitudes: Any,
    lam_shape: tuple[int, int],
    *,
    run_id: str = "run",
    name: str = "tnbd_sample",
    trim: tuple[int, int, int, int] | None = (2, 2, 2, 2),
    dataset: Mapping[str, Any] | None = None,
    diagnostic: Sequence[str] = (),
    units: Mapping[str, str] | None = None,
) -> Path:
    """Write a forecast and the sidecar of its folder; fields have the shape (lead, node), LAM nodes first."""
    folder.mkdir(parents=True, exist_ok=True)
    about = About(
        run_id=run_id,
        name=name,
        checkpoint=f"/gone/{run_id}/inference-last.ckpt",
        checkpoint_uuid="uuid",
        step=60,
        timestep_h=6,
        lam_nodes=lam_shape[0] * lam_shape[1],
        lam_shape=lam_shape,
        trim=trim,
        dataset=dataset or {"dataset": {"cutout": [{"dataset": "/gone/hrrr.zarr"}, {"dataset": "/gone/gfs.zarr"}]}},
        diagnostic=tuple(diagnostic),
        units=dict(units or {}),
    )
    (folder / SIDECAR).write_text(about.as_json())
    start = int(np.datetime64(date, "s").astype(np.int64))
    path = folder / f"{np.datetime64(date, 'h')}.nc"
    with Dataset(path, "w") as file:
        file.createDimension("time", None)
        file.createDimension("values", len(latitudes))
        file.createVariable("forecast_reference_time", "i8")[...] = start
        for key, values, size in (
            ("time", [start + 3600 * lead for lead in leads_h], "time"),
            ("forecast_period", [3600 * lead for lead in leads_h], "time"),
            ("latitude", latitudes, "values"),
            ("longitude", longitudes, "values"),
        ):
            file.createVariable(key, "i8" if size == "time" else "f4", (size,))[:] = values
        for key, values in fields.items():
            file.createVariable(key, "f4", ("time", "values"), fill_value=np.nan)[:] = values
    return path
