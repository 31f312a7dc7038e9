"""Sign-in to Azure without a person: settings, and credentials of `azure-identity`."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Mapping
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from anemoi_house.errors import HouseError
from anemoi_house.tracking.servers.base import TIMEOUT_S
from anemoi_house.tracking.servers.failures import UnavailableError, one_line
from anemoi_house.words import is_or_are, listed

if TYPE_CHECKING:
    from azure.core.credentials import AccessToken

IDENTITIES = ("default", "service_principal", "managed", "cli")
"""Ways to sign in: `default` takes the first of the others that the environment offers."""
_CERTIFICATE, _FEDERATED = "AZURE_CLIENT_CERTIFICATE_PATH", "AZURE_FEDERATED_TOKEN_FILE"
_PRINCIPAL = ("AZURE_TENANT_ID", "AZURE_CLIENT_ID", "AZURE_CLIENT_SECRET")
_CHASSIS = Path("/sys/class/dmi/id/chassis_asset_tag")
_AZURE_CHASSIS = "7783-7084-3265-9085-8269-3286-77"
"""Asset tag of every virtual machine of Azure, by which one is recognised without a network."""


class SignIn:
    """Azure credential that never asks a person: no browser, no device code.

    Parameters
    ----------
    identity : str
        One of `IDENTITIES`.
    authority : str
        Host to sign in at.
    """

    def __init__(self, identity: str, authority: str) -> None:
        self._identity, self._authority = identity, authority

    @cached_property
    def credentials(self) -> list[Any]:
        """The credentials that are tried, in this order."""
        return [make() for make in self._ways()]

    def forget(self) -> None:
        """Drop the token: the server has rejected it."""
        self.__dict__.pop("credentials", None)

    def get_token(self, *scopes: str, **settings: Any) -> AccessToken:
        """Return a token, as Azure's libraries ask for it."""
        from azure.identity import CredentialUnavailableError

        reasons = []
        for credential in self.credentials:
            try:
                return credential.get_token(*scopes, **settings)
            except CredentialUnavailableError as unavailable:
                reasons.append(f"{type(credential).__name__}: {one_line(str(unavailable), 100)}")
        raise UnavailableError(f"cannot sign in to Azure: {'; '.join(reasons)}", 1)

    def _ways(self) -> list[Callable[[], Any]]:
        from azure.identity import (
            AzureCliCredential,
            EnvironmentCredential,
            ManagedIdentityCredential,
            WorkloadIdentityCredential,
        )

        # The sender repeats calls itself; outside Azure, nobody answers at the address of managed identities.
        short: dict[str, Any] = {"retry_total": 0, "connection_timeout": 5, "read_timeout": TIMEOUT_S}
        client = os.environ.get("DEFAULT_IDENTITY_CLIENT_ID") or os.environ.get("AZURE_CLIENT_ID") or None
        principal = partial(EnvironmentCredential, authority=self._authority, **short)
        workload = partial(WorkloadIdentityCredential, authority=self._authority, **short)
        managed = partial(ManagedIdentityCredential, client_id=client, **short | {"connection_timeout": 2})
        cli = partial(AzureCliCredential, process_timeout=2 * TIMEOUT_S)
        federated: list[Callable[[], Any]] = [workload] if os.environ.get(_FEDERATED) else []
        ways: dict[str, list[Callable[[], Any]]] = {
            "service_principal": federated or [principal],
            "managed": [managed],
            "cli": [cli],
            "default": [principal, *federated, managed, cli],
        }
        return ways[self._identity]


def check_sign_in(identity: str, environ: Mapping[str, str]) -> None:
    """Raise a HouseError if the environment shows that no sign-in is possible."""
    has = {name for name in (*_PRINCIPAL, _CERTIFICATE, _FEDERATED) if environ.get(name)}
    keys = {"AZURE_CLIENT_SECRET", _CERTIFICATE, _FEDERATED}
    missing = [name for name in _PRINCIPAL if name not in has and not (name == "AZURE_CLIENT_SECRET" and keys & has)]
    on_azure = _on_azure(environ)
    if identity == "cli" and not _has_cli(environ):
        raise HouseError("identity: cli: the command az is not found. Install the Azure CLI and run az login.")
    if identity == "service_principal" and missing:
        raise HouseError(f"identity: service_principal: set {listed(missing)}.")
    if identity != "default" or not missing:
        return
    # A client id alone selects one of the identities of a machine of Azure.
    if has - {"AZURE_CLIENT_ID"} or (has and not on_azure):
        raise HouseError(
            f"Azure sign-in: {listed(sorted(has))} {is_or_are(sorted(has))} set, but not {listed(missing)}. "
            "Set all of them, or set identity to managed or cli."
        )
    if not on_azure and not _has_cli(environ):
        raise HouseError(
            f"Azure sign-in: no credentials found. Set {listed(_PRINCIPAL)}, for example in a file ~/.azure.sh that "
            "you source first; or run az login of the Azure CLI; or, on a machine of Azure, set identity to managed."
        )


def _has_cli(environ: Mapping[str, str]) -> bool:
    return shutil.which("az", path=environ.get("PATH")) is not None


def _on_azure(environ: Mapping[str, str]) -> bool:
    if environ.get("IDENTITY_ENDPOINT") or environ.get("MSI_ENDPOINT"):
        return True
    try:
        return _CHASSIS.read_text().strip() == _AZURE_CHASSIS
    except OSError:
        return False
