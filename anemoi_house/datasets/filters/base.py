"""What the filters share: checks of their settings, and how their messages name a field."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from typing import Annotated, Any, ClassVar

from anemoi.transform.filter import Filter
from pydantic import BeforeValidator

from anemoi_house.errors import HouseError
from anemoi_house.upstream.errors import CommandError


class HouseFilter(Filter):
    """Base of our filters: mistakes in their settings end the command with one line when the recipe is read."""

    NAME: ClassVar[str]
    KEYS: ClassVar[tuple[str, ...]] = ()
    schema: ClassVar[Any]

    def __init_subclass__(cls, **kwargs: Any) -> None:
        """Give the filter the schema that anemoi-datasets looks for."""
        super().__init_subclass__(**kwargs)
        cls.schema = Annotated[dict[str, Any], BeforeValidator(cls.checked)]

    @classmethod
    def checked(cls, settings: Any) -> dict[str, Any]:
        """Return the settings of a recipe, checked. anemoi-datasets validates a recipe with this.

        Raises
        ------
        CommandError
            If the filter does not accept them.
        """
        settings = {} if settings is None else settings
        if not isinstance(settings, Mapping):
            raise CommandError(f"{cls.NAME}: {settings!r} is not a mapping. Write the settings as {{key: value}}.")
        cls(**{str(key): value for key, value in settings.items()})
        return dict(settings)

    def __init__(self, **unknown: Any) -> None:
        for key in unknown:
            close = get_close_matches(key, self.KEYS, n=1)
            known = f"Use {', '.join(self.KEYS)}." if self.KEYS else "It has none."
            hint = f"Did you mean {close[0]!r}?" if close else known
            raise CommandError(f"{self.NAME}: {key!r} is not a setting. {hint}")

    def mistake(self, message: object, field: Any = None) -> CommandError:
        """Return an error that ends the command with one line, which names the field it is about."""
        return CommandError(f"{self.NAME}: {f'field {described(field)}: ' if field is not None else ''}{message}")


def described(field: Any) -> str:
    """Return the name, level and valid time of a field, for messages."""
    param, level, valid = field.metadata("param", "levelist", "valid_datetime", default=None)
    return f"'{param}'{'' if level is None else f' at level {level}'} of {valid}"


def required(field: Any, keys: Sequence[str]) -> tuple[Any, ...]:
    """Return metadata of a field; raise a HouseError if one is missing."""
    values: tuple[Any, ...] = field.metadata(*keys, default=None)
    if missing := [key for key, value in zip(keys, values) if value is None]:
        raise HouseError(f"metadata '{missing[0]}' is missing, which its grid needs.")
    return values
