"""A model's archive: where a field of a run is, and its message.

Only the requested fields are fetched, as the byte ranges that a file's `.idx` gives. If there is none, an index is made
from the headers of the messages, and cached.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from textwrap import shorten
from typing import Any, TypeVar

from anemoi_house.datasets.grib import (
    INDICATOR_BYTES,
    FieldHeader,
    IndexedField,
    TimeRange,
    fields_of,
    message_length,
    split,
    walk,
)
from anemoi_house.datasets.index import IndexCache, NoIndexError, find, from_headers, parse_idx
from anemoi_house.datasets.model import Model
from anemoi_house.datasets.packing import GribError
from anemoi_house.datasets.stores import PATIENCE_S, AbsentError, ArchiveError, Store, StoreSettings, UnreachableError
from anemoi_house.datasets.variables import Variable

LOG = logging.getLogger(__name__)

_T = TypeVar("_T")


@dataclass(frozen=True)
class Wanted:
    """One field of one run."""

    variable: Variable
    level_hpa: int | None
    time_range: TimeRange

    @property
    def level(self) -> str:
        """Its name in an index."""
        return self.variable.level or f"{self.level_hpa} mb"

    def __str__(self) -> str:
        """Return it as messages name it."""
        return f"{self.variable.name} {self.level} {self.time_range}"


@dataclass(frozen=True)
class Message:
    """A message that holds the wanted field alone.

    Attributes
    ----------
    wanted : Wanted
    header : FieldHeader
        Its header in the file.
    content : bytes
    where : str
        Address, byte range and field, for messages.
    """

    wanted: Wanted
    header: FieldHeader
    content: bytes = field(repr=False)
    where: str


class Archive:
    """The files of one model in one or several stores.

    Parameters
    ----------
    model : Model
    stores : sequence of StoreSettings
        Tried in this order for each file; by default the model's public archives.
    patience_s : float
        How long a failing request is retried.
    indexes : Path or None
        Directory for indexes made from headers; None for one in the user's cache.
    """

    def __init__(
        self,
        model: Model,
        stores: Sequence[StoreSettings] = (),
        patience_s: float = PATIENCE_S,
        indexes: Path | None = None,
    ) -> None:
        self.model = model
        self.stores = tuple(stores) or tuple(StoreSettings(url) for url in model.stores)
        self.patience_s = patience_s
        self.indexes = IndexCache(indexes)
        self._opened: dict[StoreSettings, Store] = {}
        self._layouts: dict[StoreSettings, tuple[str, ...]] = {}

    def fetch(self, run: datetime, lead_hours: int, wanted: Sequence[Wanted]) -> list[Message]:
        """Return the messages of the wanted fields of one run and lead time, in their order.

        Raises
        ------
        AbsentError
            If no store holds the file.
        UnreachableError
            If a store does not answer, and no other gives the fields.
        ArchiveError
            If none gives all of the fields, with what each store said.
        """

        def fetch(plan: _Plan) -> list[Message]:
            found = {one: message for file, fields in plan for one, message in zip(fields, file.fetch(fields))}
            return [found[one] for one in wanted]

        return self._from_first_store(fetch, run, lead_hours, wanted)

    def check(self, run: datetime, lead_hours: int, wanted: Sequence[Wanted]) -> int:
        """Return the bytes that the wanted fields take, after a check that the files hold them and are whole.

        No field is read. Raises the errors of `fetch`.
        """

        def check(plan: _Plan) -> int:
            for file, _ in plan:
                file.check_length()
            return sum(file.bytes_of(fields.values()) for file, fields in plan)

        return self._from_first_store(check, run, lead_hours, wanted)

    def _from_first_store(
        self, ask: Callable[[_Plan], _T], run: datetime, lead_hours: int, wanted: Sequence[Wanted]
    ) -> _T:
        """Return the answer of the first store that has one; raise an error with all reasons if none has."""
        reasons: list[ArchiveError] = []
        for store in self.stores:
            try:
                return ask(self._plan(store, run, lead_hours, wanted))
            except ArchiveError as reason:
                reasons.append(reason)
                if store is not self.stores[-1] and not isinstance(reason, AbsentError):
                    LOG.warning("%s; trying the next root", reason)
        kinds = {type(reason) for reason in reasons}
        # While one store does not answer, it is unknown whether the fields exist.
        kind = kinds.pop() if len(kinds) == 1 else UnreachableError if UnreachableError in kinds else ArchiveError
        raise kind(f"{self.model.name} {run:%Y-%m-%dT%H}+{lead_hours}h: {'; '.join(map(str, reasons))}")

    def _plan(self, store: StoreSettings, run: datetime, lead_hours: int, wanted: Sequence[Wanted]) -> _Plan:
        """Return the files of a store that are needed for the fields, each with the fields to read from it."""
        missing = list(wanted)
        plan: _Plan = []
        for file in self._files(store, run, lead_hours):
            file.check_run(run)
            listed = {one: find(file.fields, one.variable.name, one.level, one.time_range) for one in missing}
            plan.append((file, {one: entry for one, entry in listed.items() if entry is not None}))
            missing = [one for one in missing if listed[one] is None]
            if not missing:
                return plan
        raise ArchiveError(_lacks(plan[0][0], missing))

    def _files(self, settings: StoreSettings, run: datetime, lead_hours: int) -> list[GribFile]:
        """Return the existing files of a run in a store, the main one first; raise an AbsentError without that one."""
        if settings not in self._opened:
            self._opened[settings] = Store(settings, self.patience_s)
        layouts = [settings.files] if settings.files else list(self.model.layouts)
        # The layout that was right for the last run is tried first: archives rarely change it.
        layouts.sort(key=lambda layout: layout != self._layouts.get(settings))
        tried: list[str] = []
        for layout in layouts:
            names = [pattern.format(run=run, lead=lead_hours) for pattern in layout]
            main, *others = (GribFile(self._opened[settings], name, self.indexes) for name in names)
            if main.exists():
                self._layouts[settings] = layout
                return [main, *(file for file in others if file.exists())]
            tried.append(names[0])
        raise AbsentError(f"{settings.url} has no {' or '.join(tried)}")


class GribFile:
    """One file of an archive: its index, and messages out of it.

    Parameters
    ----------
    store : Store
    path : str
        In the store.
    indexes : IndexCache
    """

    def __init__(self, store: Store, path: str, indexes: IndexCache) -> None:
        self.store, self.path, self.indexes = store, path, indexes
        self.address = store.address(path)
        self._answers: dict[str, Any] = {}

    def exists(self) -> bool:
        """Return whether the store has the file or its index."""
        return self._idx is not None or self._head is not None

    @property
    def fields(self) -> list[IndexedField]:
        """Its index; an ArchiveError if the index, or the file itself, is invalid."""
        return self._once("fields", lambda: self._made_index() if self._idx is None else self._parsed(self._idx))

    def check_run(self, run: datetime) -> None:
        """Raise an ArchiveError if the file lists fields of another run."""
        for other in (entry.run for entry in self.fields if entry.run != run):
            what = "is" if self._idx is None else "has an .idx that does not belong to it:"
            raise ArchiveError(f"{self.address} {what} of the run {other:%Y-%m-%dT%H}, not {run:%Y-%m-%dT%H}")

    def check_length(self) -> None:
        """Raise an ArchiveError if the file does not end where its last message does."""
        if self._head is None:
            raise ArchiveError(f"{self.address} does not exist, only its .idx")
        size, _ = self._head
        end = sum(self._range(self.fields[-1]))
        # Without an .idx, reading the headers was the check.
        if self._idx is not None and end != size:
            why = "it is cut short" if end > size else "its .idx is another file's"
            raise ArchiveError(f"{self.address} has {size:,} bytes but its last message ends at {end:,}: {why}")

    def bytes_of(self, fields: Iterable[IndexedField]) -> int:
        """Return the bytes of the messages of some fields; a message that several share counts once."""
        return sum(length for _, length in {self._range(entry) for entry in fields})

    def fetch(self, fields: Mapping[Wanted, IndexedField]) -> list[Message]:
        """Return the messages of some fields; raise an ArchiveError for one that is not what the index says."""
        ranges = sorted({self._range(entry) for entry in fields.values()})
        contents = dict(zip(ranges, self.store.ranges(self.path, ranges))) if ranges else {}
        return [self._message(wanted, entry, contents[self._range(entry)]) for wanted, entry in fields.items()]

    def _message(self, wanted: Wanted, entry: IndexedField, content: bytes) -> Message:
        where = f"{self.address} (bytes {entry.offset}-{entry.offset + len(content) - 1}): {wanted}"
        try:
            headers = fields_of(content)
        except GribError as wrong:
            raise ArchiveError(f"{where}: the message {wrong}") from None
        header = headers[min(entry.part, len(headers)) - 1]
        if any(getattr(header, key) != getattr(entry, key) for key in ("run", "name", "level", "time_range")):
            raise ArchiveError(
                f"{where}: the index does not belong to its file; the message holds {header} of "
                f"{header.run:%Y-%m-%dT%H}"
            )
        return Message(wanted, header, split(content, header), where)

    def _range(self, entry: IndexedField) -> tuple[int, int]:
        return entry.offset, entry.length or self._once("length of last", self._length_of_last)

    @property
    def _head(self) -> tuple[int, str] | None:
        return self._once("head", lambda: self.store.head(self.path))

    @property
    def _idx(self) -> bytes | None:
        return self._once("idx", lambda: self.store.get(f"{self.path}.idx"))

    def _once(self, name: str, ask: Callable[[], _T]) -> _T:
        """Return an answer, asked for once. functools.cached_property of Python 3.11 would lock all files' threads."""
        if name not in self._answers:
            self._answers[name] = ask()
        return self._answers[name]

    def _length_of_last(self) -> int:
        """Return the bytes of the last message, which an `.idx` does not give."""
        offset = self.fields[-1].offset
        try:
            return message_length(self._bytes(offset, INDICATOR_BYTES))
        except GribError as wrong:
            raise ArchiveError(f"{self.address} at byte {offset:,}: the message {wrong}") from None

    def _parsed(self, idx: bytes) -> list[IndexedField]:
        try:
            return parse_idx(idx.decode("utf-8", errors="replace"))
        except NoIndexError as wrong:
            raise ArchiveError(f"{self.address}.idx {wrong}") from None

    def _made_index(self) -> list[IndexedField]:
        """Return the index made from the file's headers, cached."""
        if self._head is None:
            raise AbsentError(f"{self.address} does not exist")
        size, version = self._head
        fields = self.indexes.read(self.address, size, version)
        if fields is None:
            LOG.info("%s has no .idx: reading the headers of its messages", self.address)
            try:
                fields = from_headers(walk(lambda start, count: self._bytes(start, min(count, size - start)), size))
            except GribError as wrong:
                raise ArchiveError(f"{self.address} {wrong}") from None
            self.indexes.write(self.address, size, version, fields)
        return fields

    def _bytes(self, start: int, count: int) -> bytes:
        return self.store.ranges(self.path, [(start, count)])[0] if count > 0 else b""


_Plan = list[tuple[GribFile, dict[Wanted, IndexedField]]]
"""The files to read, and the fields to take from each."""


def _lacks(file: GribFile, missing: Sequence[Wanted]) -> str:
    """Say which fields a file lacks, and what it has of the first one's kind."""
    first = missing[0]
    on_levels = first.level_hpa is not None
    same_name = [entry for entry in file.fields if entry.name == first.variable.name]
    alike = [str(entry) for entry in same_name if entry.level.endswith(" mb") == on_levels]
    more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
    instead = f"; it has {shorten(', '.join(dict.fromkeys(alike)), 200)}" if alike else ""
    return f"{file.address} has no {first}{more}{instead}"
