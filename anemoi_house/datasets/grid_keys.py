"""Keys of eccodes that define a grid."""

LAMBERT_KEYS = (
    *("Nx", "Ny", "DxInMetres", "DyInMetres"),
    *("latitudeOfFirstGridPointInDegrees", "longitudeOfFirstGridPointInDegrees"),
    *("LaDInDegrees", "LoVInDegrees", "Latin1InDegrees", "Latin2InDegrees"),
)
LATLON_KEYS = (
    *("Ni", "Nj", "iDirectionIncrementInDegrees", "jDirectionIncrementInDegrees"),
    *("latitudeOfFirstGridPointInDegrees", "longitudeOfFirstGridPointInDegrees"),
)
SCAN_KEYS = ("iScansNegatively", "jScansPositively")
UNSUPPORTED_SCAN_KEYS = ("iScansNegatively", "jPointsAreConsecutive", "alternativeRowScanning")

GRID_KEYS = ("gridType", "radius", *LAMBERT_KEYS, *LATLON_KEYS, *SCAN_KEYS, *UNSUPPORTED_SCAN_KEYS, "uvRelativeToGrid")
"""All that a field of `house-noaa` has in its metadata."""
