"""NOAA's archives for the tests: files true to their format, the servers that hold them, and real messages."""

# Before eccodes: its bundled libraries, loaded first, let pyproj end the process with a corrupted heap.
import pyproj  # noqa: F401
