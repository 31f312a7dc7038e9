"""From NOAA's GRIB archives to datasets of anemoi."""
