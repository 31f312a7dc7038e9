"""Extras of this package: which one brings a package that is missing."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import requires

from anemoi_house.errors import HouseError

GATHERED = ("all", "test", "docs")
"""Extras that are never the answer: they are for everything, or for work on this package."""

_REQUIREMENT = re.compile(r"""([\w.-]+).*;.*\bextra == ['"]([\w-]+)['"]""")
_PACKAGE_OF = {"PIL": "pillow", "azure": "azure-identity", "azureml": "azureml-mlflow", "ruamel": "ruamel-yaml"}
"""Packages by module, where the name differs in more than its punctuation."""


@contextmanager
def extras_named(user: str) -> Iterator[None]:
    """Raise a missing package of an extra as a message that says what to install.

    Parameters
    ----------
    user : str
        What needs the package: a command, or the name of a source. An extra of that name is preferred.

    Raises
    ------
    HouseError
        If an import in the block finds no package, and an extra has it.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        package, extras = _extras_of(error.name or "")
        if not extras:
            raise
        extra = user if user in extras else extras[0]
        raise HouseError(
            f"{user} needs {package}, which is not installed. Install it with: pip install 'anemoi-house[{extra}]'"
        ) from None


def _extras_of(module: str) -> tuple[str, list[str]]:
    """Return the package that a module belongs to, and the extras that require it."""
    first = module.partition(".")[0]
    names = {_PACKAGE_OF.get(first, first).lower(), "-".join(module.split(".")[:2]).lower()}
    found = [match.groups() for line in requires("anemoi-house") or [] if (match := _REQUIREMENT.match(line))]
    matching = [(package, extra) for package, extra in found if package in names and extra not in GATHERED]
    return (matching[0][0] if matching else module), [extra for _, extra in matching]
