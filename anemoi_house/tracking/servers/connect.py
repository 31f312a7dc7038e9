"""Which kind of server an address belongs to.

Another tracker is a module of this folder with the functions of `Tracker`, and its schemes in `MODULES`.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from typing import Any, Protocol, cast
from urllib.parse import urlsplit

from anemoi_house.errors import HouseError
from anemoi_house.tracking.servers.base import Server, hide_secrets

MODULES = {"http": "mlflow", "https": "mlflow", "sqlite": "mlflow", "azureml": "azure"}
"""Module of each scheme."""
_BY_SERVER = "reach the database through a server: `mlflow server --backend-store-uri ADDRESS`, and give its http://"
_OWN_SIGN_IN = "its sign-in and client are not supported: record into sqlite:///FILE, or send to an MLflow server"
UNSUPPORTED = {
    **dict.fromkeys(("postgresql", "mysql", "mssql"), _BY_SERVER),
    "file": "MLflow keeps runs of folders for reading only: give sqlite:///FILE",
    **dict.fromkeys(("databricks", "databricks-uc", "uc", "arn"), _OWN_SIGN_IN),
}
"""What to do in place of addresses that MLflow knows."""


class Tracker(Protocol):
    """What a module of a tracker offers. It imports its client when it connects, not before: that takes seconds."""

    def check_uri(self, uri: str) -> None:
        """Raise a HouseError for an address that is invalid."""

    def shown_uri(self, uri: str) -> str:
        """Return the address as messages show it."""

    def target(self, uri: str, given: Mapping[str, Any]) -> dict[str, Any]:
        """Return the `target.json` for an address, given that of the run; raise a HouseError if settings are wrong."""

    def connect(self, target: Mapping[str, Any]) -> Server:
        """Return the server of a `target.json`."""


def check_uri(uri: str) -> None:
    """Raise a HouseError for an address that is invalid, or that holds a password."""
    _tracker(uri).check_uri(uri)


def shown_uri(uri: str) -> str:
    """Return an address as messages show it."""
    return _tracker(uri).shown_uri(uri) if _scheme(uri) in MODULES else hide_secrets(uri)


def target(uri: str, given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the `target.json` for an address, completed from the environment.

    Parameters
    ----------
    uri : str
    given : mapping
        The `target.json` of the run, which may name another server.
    """
    return _tracker(uri).target(uri, given)


def connect(target: Mapping[str, Any]) -> Server:
    """Return the server of a `target.json`.

    Raises
    ------
    HouseError
        The address is invalid, or a package is missing.
    """
    check_uri(target["uri"])
    return _tracker(target["uri"]).connect(target)


def _tracker(uri: str) -> Tracker:
    scheme = _scheme(uri)
    if (known_to_mlflow := scheme.partition("+")[0]) in UNSUPPORTED:
        raise HouseError(
            f"tracking_uri: {hide_secrets(uri)}: {known_to_mlflow} is not supported; {UNSUPPORTED[known_to_mlflow]}."
        )
    if scheme not in MODULES:
        problem = f"{scheme}:// is not known" if scheme else "has no scheme"
        known = ", ".join(f"{each}://" for each in MODULES)
        raise HouseError(f"tracking_uri: {hide_secrets(uri)}: {problem}. Give an address with one of {known}.")
    return cast(Tracker, import_module(f"anemoi_house.tracking.servers.{MODULES[scheme]}"))


def _scheme(uri: str) -> str:
    whole = uri in MODULES or uri in UNSUPPORTED  # `azureml` alone: the environment names the workspace
    return uri if whole else urlsplit(uri).scheme
