"""NOAA's archives of GFS and HRRR: where a field lies, and its message.

Only what is asked for is fetched: byte ranges that the `.idx` beside a file gives, or, where there is none, an index
that is made from the headers of the messages and kept.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from textwrap import shorten
from typing import Any, TypeVar

from anemoi_house.datasets.grib import (
    INDICATOR_BYTES,
    FieldHeader,
    Forecast,
    GribError,
    fields_of,
    message_length,
    split,
    walk,
)
from anemoi_house.datasets.index import Entry, KeptIndexes, NoIndexError, find, from_headers, parse_idx
from anemoi_house.datasets.stores import PATIENCE_S, AbsentError, ArchiveError, Place, Root, UnreachableError
from anemoi_house.datasets.variables import Variable
from anemoi_house.errors import HouseError

LOG = logging.getLogger(__name__)

_T = TypeVar("_T")


@dataclass(frozen=True)
class Model:
    """A model and how its files are named.

    Attributes
    ----------
    name : str
    begins : datetime
        First day that any archive holds.
    cycle_hours : int
        Between two runs.
    shape : tuple of int
        (ny, nx) of its grid.
    grid : str
        In words, for messages.
    layouts : tuple
        Ways in which archives name the files of one run and lead time. In each, the file that is looked into first,
        then those that have what it lacks; `run` is a datetime, `lead` an integer of hours.
    roots : tuple of str
        Public archives, best first.
    """

    name: str
    begins: datetime
    cycle_hours: int
    shape: tuple[int, int]
    grid: str
    layouts: tuple[tuple[str, ...], ...]
    roots: tuple[str, ...]


_GFS = "gfs.{run:%Y%m%d}/{run:%H}/"
_GFS_FILES = ("gfs.t{run:%H}z.pgrb2.0p25.f{lead:03d}", "gfs.t{run:%H}z.pgrb2b.0p25.f{lead:03d}")

MODELS = {
    "gfs": Model(
        "gfs",
        datetime(2015, 1, 15),
        6,
        (721, 1440),
        "0.25 degree grid of 721 x 1440 points",
        (
            tuple(f"{_GFS}atmos/{name}" for name in _GFS_FILES),
            tuple(f"{_GFS}{name}" for name in _GFS_FILES),
            ("{run:%Y}/{run:%Y%m%d}/gfs.0p25.{run:%Y%m%d%H}.f{lead:03d}.grib2",),
        ),
        ("s3://noaa-gfs-bdp-pds", "https://tds.gdex.ucar.edu/thredds/fileServer/files/g/d084001"),
    ),
    "hrrr": Model(
        "hrrr",
        datetime(2014, 7, 30),
        1,
        (1059, 1799),
        "3 km Lambert grid of 1059 x 1799 points",
        (("hrrr.{run:%Y%m%d}/conus/hrrr.t{run:%H}z.wrfprsf{lead:02d}.grib2",),),
        ("s3://noaa-hrrr-bdp-pds", "https://storage.googleapis.com/high-resolution-rapid-refresh"),
    ),
}


def model(name: str) -> Model:
    """Model of a name; a HouseError for a name that is not in the table."""
    if name not in MODELS:
        raise HouseError(f"model: {name!r} is not known; give one of {', '.join(MODELS)}")
    return MODELS[name]


@dataclass(frozen=True)
class Wanted:
    """One field of one run."""

    variable: Variable
    level_hpa: int | None
    forecast: Forecast

    @property
    def level(self) -> str:
        """As an index names it."""
        return self.variable.level_name(self.level_hpa)

    def __str__(self) -> str:
        """As messages name it."""
        return f"{self.variable.name} {self.level} {self.forecast}"


@dataclass(frozen=True)
class Message:
    """A message that holds the wanted field alone.

    Attributes
    ----------
    wanted : Wanted
    header : FieldHeader
        As it stands in the file.
    content : bytes
    where : str
        Address, byte range and field, for messages.
    """

    wanted: Wanted
    header: FieldHeader
    content: bytes = field(repr=False)
    where: str


class Archive:
    """The files of one model in one or several places.

    Parameters
    ----------
    model : Model
    roots : sequence of Root
        Tried in this order for each file; those of the model where there are none.
    patience_s : float
        For how long a server that fails is asked again.
    indexes : Path or None
        Folder in which indexes made from headers are kept; None for one in the user's cache.
    """

    def __init__(
        self,
        model: Model,
        roots: Sequence[Root] = (),
        patience_s: float = PATIENCE_S,
        indexes: Path | None = None,
    ) -> None:
        self.model = model
        self.roots = tuple(roots) or tuple(Root(url) for url in model.roots)
        self.patience_s = patience_s
        self.indexes = KeptIndexes(indexes)
        self._places: dict[Root, Place] = {}
        self._layouts: dict[Root, tuple[str, ...]] = {}

    def fetch(self, run: datetime, lead_hours: int, wanted: Sequence[Wanted]) -> list[Message]:
        """Messages of the wanted fields of one run and lead time, in their order.

        Raises
        ------
        AbsentError
            If no root holds the file.
        UnreachableError
            If a root cannot be asked, and no other gives the fields.
        ArchiveError
            If none gives all of the fields, with what each root said.
        """

        def fetch(root: Root) -> list[Message]:
            messages: dict[int, Message] = {}
            for file, fields in self._plan(root, run, lead_hours, wanted):
                fetched = file.fetch([(wanted[position], entry) for position, entry in fields])
                messages.update(zip((position for position, _ in fields), fetched))
            return [messages[position] for position in range(len(wanted))]

        return self._from_first_root(fetch, run, lead_hours)

    def check(self, run: datetime, lead_hours: int, wanted: Sequence[Wanted]) -> int:
        """Bytes that the wanted fields take, of files that list them and are as long as their last message says.

        No field is read. Raises what `fetch` would.
        """

        def check(root: Root) -> int:
            plan = self._plan(root, run, lead_hours, wanted)
            for file, _ in plan:
                file.check_length()
            return sum(file.bytes_of([entry for _, entry in fields]) for file, fields in plan)

        return self._from_first_root(check, run, lead_hours)

    def _from_first_root(self, ask: Callable[[Root], _T], run: datetime, lead_hours: int) -> _T:
        reasons: list[ArchiveError] = []
        for root in self.roots:
            try:
                return ask(root)
            except ArchiveError as reason:
                reasons.append(reason)
                if root is not self.roots[-1] and not isinstance(reason, AbsentError):
                    LOG.warning("%s; trying the next root", reason)
        kinds = {type(reason) for reason in reasons}
        # What one place would say is not known while it cannot be asked.
        kind = kinds.pop() if len(kinds) == 1 else UnreachableError if UnreachableError in kinds else ArchiveError
        told = "; ".join(str(reason) for reason in reasons)
        raise kind(f"{self.model.name} {run:%Y-%m-%dT%H}+{lead_hours}h: {told}")

    def _plan(
        self, root: Root, run: datetime, lead_hours: int, wanted: Sequence[Wanted]
    ) -> list[tuple[GribFile, list[tuple[int, Entry]]]]:
        """Files of a root that hold the fields, with the position in `wanted` and the entry of each field."""
        todo = dict(enumerate(wanted))
        plan: list[tuple[GribFile, list[tuple[int, Entry]]]] = []
        for file in self._files(root, run, lead_hours):
            file.check_run(run)
            found = [(k, find(file.entries, one.variable.name, one.level, one.forecast)) for k, one in todo.items()]
            here = [(k, entry) for k, entry in found if entry is not None]
            plan.append((file, here))
            for k, _ in here:
                del todo[k]
            if not todo:
                return plan
        raise ArchiveError(_lacks(plan[0][0], list(todo.values())))

    def _files(self, root: Root, run: datetime, lead_hours: int) -> list[GribFile]:
        """Files of the run in a root, the one to look into first ahead; an AbsentError where there are none."""
        if root not in self._places:
            self._places[root] = Place(root, self.patience_s)
        layouts = [root.files] if root.files else list(self.model.layouts)
        # An archive changes its layout once in years: what held last time is tried first.
        layouts.sort(key=lambda layout: layout != self._layouts.get(root))
        tried: list[str] = []
        for layout in layouts:
            names = [pattern.format(run=run, lead=lead_hours) for pattern in layout]
            files = [GribFile(self._places[root], name, self.indexes) for name in names]
            if files[0].exists():
                self._layouts[root] = layout
                return [file for file in files if file is files[0] or file.exists()]
            tried.append(names[0])
        raise AbsentError(f"{root.url} has no {' or '.join(tried)}")


class GribFile:
    """One file of an archive: its index, and messages out of it.

    Parameters
    ----------
    place : Place
    path : str
        In the place.
    indexes : KeptIndexes
    """

    def __init__(self, place: Place, path: str, indexes: KeptIndexes) -> None:
        self.place, self.path, self.indexes = place, path, indexes
        self.address = place.address(path)
        self._answers: dict[str, Any] = {}

    def exists(self) -> bool:
        """Whether the file or its index is there."""
        return self._idx is not None or self._head is not None

    @property
    def entries(self) -> list[Entry]:
        """Fields of the file; an ArchiveError where its index, or itself, is not what it should be."""
        return self._once("entries", lambda: self._walked() if self._idx is None else self._parsed(self._idx))

    def check_run(self, run: datetime) -> None:
        """Raise an ArchiveError if the file lists fields of another run."""
        for entry in self.entries:
            if entry.run != run:
                what = "is" if self._idx is None else "does not belong to its file: its .idx is"
                raise ArchiveError(f"{self.address} {what} of the run {entry.run:%Y-%m-%dT%H}, not {run:%Y-%m-%dT%H}")

    def check_length(self) -> None:
        """Raise an ArchiveError if the file does not end where its last message does."""
        if self._head is None:
            raise ArchiveError(f"{self.address} is not there, only its .idx")
        size, _ = self._head
        last = self.entries[-1]
        end = last.offset + (last.length or self._length_of_last)
        # Headers have told of a file without .idx already.
        if self._idx is not None and end != size:
            what = "it is cut short" if end > size else "its .idx is of another file"
            raise ArchiveError(f"{self.address} has {size:,} bytes and its last message ends at {end:,}: {what}")

    def bytes_of(self, entries: Sequence[Entry]) -> int:
        """Bytes of the messages of some fields; one that several share counts once."""
        return sum(length for _, length in {self._range(entry) for entry in entries})

    def fetch(self, fields: Sequence[tuple[Wanted, Entry]]) -> list[Message]:
        """Messages of some fields; an ArchiveError for one that is not what the index says."""
        ranges = sorted({self._range(entry) for _, entry in fields})
        contents = dict(zip(ranges, self.place.ranges(self.path, ranges))) if ranges else {}
        return [self._message(wanted, entry, contents[self._range(entry)]) for wanted, entry in fields]

    def _message(self, wanted: Wanted, entry: Entry, content: bytes) -> Message:
        where = f"{self.address} (bytes {entry.offset}-{entry.offset + len(content) - 1}): {wanted}"
        try:
            headers = fields_of(content)
        except GribError as wrong:
            raise ArchiveError(f"{where}: the message {wrong}") from None
        header = headers[min(entry.part, len(headers)) - 1]
        told = (header.run, header.name, header.level, header.forecast)
        if told != (entry.run, entry.name, entry.level, entry.forecast):
            raise ArchiveError(
                f"{where}: the index does not belong to its file; there the message holds "
                f"{header.name} {header.level} {header.forecast} of {header.run:%Y-%m-%dT%H}"
            )
        return Message(wanted, header, split(content, header), where)

    def _range(self, entry: Entry) -> tuple[int, int]:
        return entry.offset, entry.length or self._length_of_last

    @property
    def _length_of_last(self) -> int:
        """Bytes of the last message, which an `.idx` does not say."""
        return self._once("length of last", self._ask_length_of_last)

    @property
    def _head(self) -> tuple[int, str] | None:
        return self._once("head", lambda: self.place.head(self.path))

    @property
    def _idx(self) -> bytes | None:
        return self._once("idx", lambda: self.place.get(f"{self.path}.idx"))

    def _once(self, name: str, ask: Callable[[], _T]) -> _T:
        """Answer that is asked for once. In functools.cached_property of Python 3.11, all files' threads would wait."""
        if name not in self._answers:
            self._answers[name] = ask()
        return self._answers[name]

    def _ask_length_of_last(self) -> int:
        offset = self.entries[-1].offset
        (indicator,) = self.place.ranges(self.path, [(offset, INDICATOR_BYTES)])
        try:
            return message_length(indicator)
        except GribError as wrong:
            raise ArchiveError(f"{self.address} at byte {offset:,}: the message {wrong}") from None

    def _parsed(self, idx: bytes) -> list[Entry]:
        try:
            return parse_idx(idx.decode("utf-8", errors="replace"))
        except NoIndexError as wrong:
            raise ArchiveError(f"{self.address}.idx {wrong}") from None

    def _walked(self) -> list[Entry]:
        if self._head is None:
            raise AbsentError(f"{self.address} is not there")
        size, version = self._head
        entries = self.indexes.read(self.address, size, version)
        if entries is None:
            LOG.info("%s has no .idx: reading the headers of its messages", self.address)
            try:
                entries = from_headers(walk(lambda start, count: self._bytes(start, min(count, size - start)), size))
            except GribError as wrong:
                raise ArchiveError(f"{self.address} {wrong}") from None
            self.indexes.write(self.address, size, version, entries)
        return entries

    def _bytes(self, start: int, count: int) -> bytes:
        return self.place.ranges(self.path, [(start, count)])[0] if count > 0 else b""


def _lacks(file: GribFile, fields: Sequence[Wanted]) -> str:
    """What is not in a file, and what stands there in its place."""
    first = fields[0]
    on_levels = first.level_hpa is not None
    alike = [
        str(entry)
        for entry in file.entries
        if entry.name == first.variable.name and entry.level.endswith(" mb") == on_levels
    ]
    more = f" and {len(fields) - 1} more" if len(fields) > 1 else ""
    instead = f"; it has {shorten(', '.join(dict.fromkeys(alike)), 200)}" if alike else ""
    return f"{file.address} has no {first}{more}{instead}"
