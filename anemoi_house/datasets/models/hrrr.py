"""HRRR, the High-Resolution Rapid Refresh, on its 3 km Lambert grid."""

from datetime import datetime

from anemoi_house.datasets.model import Model

MODEL = Model(
    name="hrrr",
    shape=(1059, 1799),
    begins=datetime(2014, 7, 30),
    cycle_hours=1,
    longest_lead_hours=48,
    layouts=(("hrrr.{run:%Y%m%d}/conus/hrrr.t{run:%H}z.wrfprsf{lead:02d}.grib2",),),
    stores=("s3://noaa-hrrr-bdp-pds", "https://storage.googleapis.com/high-resolution-rapid-refresh"),
)
