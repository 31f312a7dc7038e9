"""GFS, the Global Forecast System, on its 0.25 degree grid."""

from datetime import datetime

from anemoi_house.datasets.model import Model

_FOLDER = "gfs.{run:%Y%m%d}/{run:%H}/"
# Specific humidity on pressure levels is only in pgrb2b before GFS v16 (2021-03-22).
_FILES = ("gfs.t{run:%H}z.pgrb2.0p25.f{lead:03d}", "gfs.t{run:%H}z.pgrb2b.0p25.f{lead:03d}")

MODEL = Model(
    name="gfs",
    shape=(721, 1440),
    begins=datetime(2015, 1, 15),
    cycle_hours=6,
    longest_lead_hours=384,
    layouts=(
        tuple(f"{_FOLDER}atmos/{file}" for file in _FILES),
        tuple(f"{_FOLDER}{file}" for file in _FILES),  # before 2021-03-22
        ("{run:%Y}/{run:%Y%m%d}/gfs.0p25.{run:%Y%m%d%H}.f{lead:03d}.grib2",),  # NCAR
    ),
    stores=("s3://noaa-gfs-bdp-pds", "https://tds.gdex.ucar.edu/thredds/fileServer/files/g/d084001"),
)
