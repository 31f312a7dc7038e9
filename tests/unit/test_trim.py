from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from omegaconf import OmegaConf

from anemoi_house.boundary.trim import SMALLEST_DOMAIN, check_domain, parse_trim, width_to_cells
from anemoi_house.errors import HouseError
from anemoi_house.geometry import HRRR_3KM, HRRR_15KM


@pytest.mark.parametrize("value", [[15, 16, 15, 16], (15, 16, 15, 16), OmegaConf.create([15, 16, 15, 16])])
def test_cells(value: Any) -> None:
    assert parse_trim(value) == (15, 16, 15, 16)


def test_no_trim() -> None:
    assert parse_trim(None) is None
    assert parse_trim([0, 0, 0, 0]) == (0, 0, 0, 0)


@pytest.mark.parametrize(
    ("text", "width"),
    [("225 km", 225.0), ("225km", 225.0), (" 2.25e2 km ", 225.0), ("0 km", 0.0), ("+7.5 km", 7.5), (".5 km", 0.5)],
)
def test_width(text: str, width: float) -> None:
    assert parse_trim(text) == width
    assert isinstance(parse_trim(text), float)


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ([1, 2, 3], "[1, 2, 3] has 3 numbers, not 4."),
        ([], "[] has 0 numbers, not 4."),
        ([15, -1, 15, 16], "[15, -1, 15, 16] must be whole numbers of cells, 0 or more."),
        ([15.0, 16, 15, 16], "[15.0, 16, 15, 16] must be whole numbers of cells, 0 or more."),
        ([True, 16, 15, 16], "[True, 16, 15, 16] must be whole numbers of cells, 0 or more."),
        (["15", "16", "15", "16"], "['15', '16', '15', '16'] must be whole numbers of cells, 0 or more."),
        ([None] * 4, "[None, None, None, None] must be whole numbers of cells, 0 or more."),
        (True, "True is not a valid trim."),
        (b"abcd", "b'abcd' is not a valid trim."),
        ({15: 1, 16: 2, 17: 3, 18: 4}, "{15: 1, 16: 2, 17: 3, 18: 4} is not a valid trim."),
        (object, "<class 'object'> is not a valid trim."),
        ("225", "'225' has no unit; is it '225 km'?"),
        (225, "225 has no unit; is it '225 km', or cells?"),
        (2.5, "2.5 has no unit; is it '2.5 km', or cells?"),
        ("225 mi", "'225 mi' is in 'mi', not km; is it '225 km'?"),
        ("225 KM", "'225 KM' is in 'KM', not km; is it '225 km'?"),
        ("225000 m", "'225000 m' is in 'm', not km; is it '225000 km'?"),
        ("abc", "'abc' is not a valid trim."),
        ("", "'' is not a valid trim."),
        ("km", "'km' is not a valid trim."),
        ("2.2.5 km", "'2.2.5 km' is not a valid trim."),
        ("15 16 15 16", "'15 16 15 16' is not a valid trim."),
        ("nan km", "'nan km' is not a valid trim."),
        ("inf km", "'inf km' is not a valid trim."),
        ("1e999 km", "'1e999 km' must be a finite width, 0 km or more."),
        ("-5 km", "'-5 km' must be a finite width, 0 km or more."),
    ],
)
def test_bad_trim_says_what_is_wrong_and_the_way_out(value: Any, said: str) -> None:
    with pytest.raises(HouseError) as caught:
        parse_trim(value, "dataloader.trim")
    way_out = "Give cells as [y0, y1, x0, x1], a width such as '225 km', or null for no trim."
    assert str(caught.value) == f"dataloader.trim: {said} {way_out}"


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary(),
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text() | st.integers(), inner, max_size=5),
    max_leaves=8,
)


@given(
    anything
    | st.from_regex(r"\s*[-+.e0-9]{1,8}\s*[a-zA-Z]{0,3}\s*")
    | st.lists(st.integers(-1, 300), min_size=4, max_size=4)
)
def test_whatever_is_given_is_a_trim_or_a_users_mistake(value: object) -> None:
    try:
        trim = parse_trim(value)
    except HouseError as mistake:
        assert re.match(r"trim: .*null for no trim\.$", str(mistake), re.DOTALL)  # noqa: PT017
        return
    if trim is None:
        assert value is None
    elif isinstance(trim, float):
        assert isinstance(value, str)
        assert "km" in value
        assert 0 <= trim < np.inf
    else:
        assert isinstance(value, list)
        assert list(trim) == value
        assert all(type(cell) is int and cell >= 0 for cell in trim)


def test_225_km_is_15_cells_of_the_published_grid() -> None:
    """The notes of the original experiments call it 75 km in one place: 15 cells of 15 km are 225 km."""
    assert width_to_cells(225.0, *HRRR_15KM.latlon()) == (15, 15, 15, 15)


def test_width_follows_the_spacing_along_each_side() -> None:
    latitudes, longitudes = np.meshgrid(np.arange(-2, 2.1, 1.0), np.arange(0, 20, 2.0), indexing="ij")
    assert width_to_cells(445.0, latitudes, longitudes) == (4, 4, 2, 2)  # a degree of the equator is 111 km
    assert width_to_cells(0.0, latitudes, longitudes) == (0, 0, 0, 0)


def test_width_on_the_tiny_grid() -> None:
    assert width_to_cells(225.0, *HRRR_3KM.coarsened(40).latlon()) == (2, 2, 2, 2)


def test_domain_that_is_left() -> None:
    assert check_domain((15, 16, 15, 16), (211, 359)) == (180, 328)
    assert check_domain((0, 0, 0, 0), (SMALLEST_DOMAIN, SMALLEST_DOMAIN)) == (SMALLEST_DOMAIN, SMALLEST_DOMAIN)


@pytest.mark.parametrize("cells", [(102, 102, 0, 0), (0, 0, 352, 0), (106, 106, 0, 0), (1000, 1000, 1000, 1000)])
def test_trim_that_leaves_no_domain(cells: tuple[int, int, int, int]) -> None:
    with pytest.raises(HouseError) as caught:
        check_domain(cells, (211, 359), "dataloader.trim")
    assert str(caught.value) == (
        f"dataloader.trim: {list(cells)} removes too much of a LAM of 211 rows x 359 columns: at least 8 of each must "
        "remain. Trim less."
    )


@pytest.mark.parametrize("width_km", [1e6, 1e300])
def test_width_beyond_the_domain(width_km: float) -> None:
    cells = width_to_cells(width_km, *HRRR_15KM.latlon())
    with pytest.raises(HouseError, match="removes too much of a LAM of 211 rows x 359 columns"):
        check_domain(cells, HRRR_15KM.shape)
