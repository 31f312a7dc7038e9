"""Checks of how GRIB2 packs values: eccodes trusts these sections, and a damaged one ends the whole process."""

from __future__ import annotations

import struct

import numpy as np
from numpy.typing import NDArray

from anemoi_house.errors import HouseError

# Data representation templates: complex packing, and complex packing with spatial differences.
_COMPLEX = (2, 3)
_DIFFERENCES = 3
MAXIMUM_BITS, MAXIMUM_DESCRIPTOR_BYTES = 32, 4


class GribError(HouseError):
    """A GRIB message is invalid; the message continues a sentence that begins with its address."""


def check_packing(packing: bytes) -> None:
    """Raise a GribError for widths in a packing section that no encoder writes.

    Raises
    ------
    GribError
    struct.error, IndexError
        If the section is too short.
    """
    (template,) = struct.unpack_from(">H", packing, 9)
    widths = [packing[19]]
    if template in _COMPLEX:
        widths += [packing[36], packing[46]]
    if template == _DIFFERENCES and (packing[47] not in (1, 2) or packing[48] > MAXIMUM_DESCRIPTOR_BYTES):
        raise GribError("has a packing section with an invalid order of differences")
    if max(widths) > MAXIMUM_BITS:
        raise GribError(f"has a packing section with {max(widths)} bits a value")


def check_groups(packing: bytes, values: bytes) -> None:
    """Raise a GribError unless the groups of complex packing hold all values and fill the values section.

    Parameters
    ----------
    packing, values : bytes
        Sections 5 and 7 of one field.
    """
    count, template = struct.unpack_from(">IH", packing, 5)
    if template not in _COMPLEX:
        return
    values = values[5:]
    groups, shortest_width, width_bits, shortest, step, last, length_bits = struct.unpack_from(">IBBIBIB", packing, 31)
    reference_bits = packing[19]
    if groups == 0 and reference_bits == 0 and not values:
        return
    if not 0 < groups <= count:
        raise GribError(f"has a packing section with {groups:,} groups for {count:,} values")
    start = (packing[47] + 1) * packing[48] if template == _DIFFERENCES else 0
    start += _bytes(groups * reference_bits)
    widths = shortest_width + _unpacked(values, start, groups, width_bits)
    start += _bytes(groups * width_bits)
    lengths = shortest + step * _unpacked(values, start, groups, length_bits)
    start += _bytes(groups * length_bits)
    lengths[-1] = last
    if lengths.sum() != count:
        raise GribError(f"has groups of {lengths.sum():,} values in all; expected {count:,}")
    if widths.max() > MAXIMUM_BITS or start + _bytes(int(widths @ lengths)) != len(values):
        raise GribError("has groups that do not fill its values section")


def _bytes(bits: int) -> int:
    """Return the number of bytes that hold these bits."""
    return -(-bits // 8)


def _unpacked(content: bytes, start: int, count: int, bits: int) -> NDArray[np.int64]:
    """Return `count` unsigned integers of `bits` bits each, the first of which begins at byte `start`."""
    if bits == 0:
        return np.zeros(count, dtype=np.int64)
    packed = np.frombuffer(content[start : start + _bytes(count * bits)], dtype=np.uint8)
    if packed.size * 8 < count * bits:
        raise GribError("has tables of groups that do not fit into its values section")
    digits = np.unpackbits(packed, count=count * bits).reshape(count, bits)
    return digits @ (1 << np.arange(bits - 1, -1, -1, dtype=np.int64))
