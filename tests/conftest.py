"""Ahead of every test."""

# Before eccodes: its bundled libraries, loaded first, let pyproj end the process with a corrupted heap.
import pyproj  # noqa: F401
