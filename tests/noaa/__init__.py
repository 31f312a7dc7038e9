"""NOAA's archives for the tests: files true to their format, the servers that hold them, and real messages."""

# Before eccodes, whose bundled libraries take the place of those that are loaded later: see datasets/fields.py.
import sqlite3  # noqa: F401

import pyproj  # noqa: F401
