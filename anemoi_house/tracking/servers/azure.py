"""Azure ML as a server: settings, sign-in, artifacts; through `azureml-mlflow` and `azure-identity`.

Of these two, the plugin would end its own search for a sign-in with a browser and a device code, which nobody sees on a
compute node: it is handed ours instead. Both are imported where they are needed alone.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from anemoi_house.errors import HouseError
from anemoi_house.tracking.servers.failures import (
    ExistsError,
    RefusedError,
    ServerError,
    UnavailableError,
    failures,
    one_line,
)
from anemoi_house.tracking.servers.mlflow import TIMEOUT_S, Limits, Server, check_uri

if TYPE_CHECKING:
    from azure.core.credentials import AccessToken
    from mlflow import MlflowClient

IDENTITIES = ("default", "service_principal", "managed", "cli")
"""Ways to sign in: `default` takes the first of the others that the environment offers."""
WORKSPACE = {
    "subscription": ("aml_subscription_id", "AZUREML_ARM_SUBSCRIPTION"),
    "resource_group": ("aml_resource_group", "AZUREML_ARM_RESOURCEGROUP"),
    "workspace": ("aml_workspace_name", "AZUREML_ARM_WORKSPACE_NAME"),
}
"""What names a workspace: keys of the config, and variables that stand in for them."""
_PROVIDER = "providers/Microsoft.MachineLearningServices/workspaces"
_SCOPE = re.compile(rf"/subscriptions/([^/]+)/resourceGroups/([^/]+)/{_PROVIDER}/([^/?]+)", re.IGNORECASE)
_ARM_VERSION = "2023-04-01"
_CERTIFICATE, _FEDERATED = "AZURE_CLIENT_CERTIFICATE_PATH", "AZURE_FEDERATED_TOKEN_FILE"
_PRINCIPAL = ("AZURE_TENANT_ID", "AZURE_CLIENT_ID", "AZURE_CLIENT_SECRET")
_CHASSIS = Path("/sys/class/dmi/id/chassis_asset_tag")
_AZURE_CHASSIS = "7783-7084-3265-9085-8269-3286-77"
"""By this the machine itself says that it is one of Azure's, without a question to the network."""
_REASONS = {
    "AADSTS7000215": "the client secret is wrong",
    "AADSTS7000222": "the client secret has expired",
    "AADSTS700016": "there is no application AZURE_CLIENT_ID in the tenant AZURE_TENANT_ID",
    "AADSTS90002": "there is no tenant AZURE_TENANT_ID",
    "AADSTS900023": "AZURE_TENANT_ID is no tenant",
    "AADSTS700027": "the certificate is not one of the application's",
    "AADSTS700024": "the token in AZURE_FEDERATED_TOKEN_FILE has expired",
    "AADSTS700082": "the sign-in of the Azure CLI has expired: az login",
    "AADSTS50173": "the sign-in of the Azure CLI has expired: az login",
}


def check_settings(
    tracking_uri: str | None, aml: Mapping[str, str | None] | None, environ: Mapping[str, str]
) -> dict[str, Any]:
    """Find what can be found wrong without a network.

    Parameters
    ----------
    tracking_uri : str or None
        Address of a workspace, as a job of Azure ML has it in MLFLOW_TRACKING_URI; without it, the workspace is found
        by its names.
    aml : mapping or None
        `subscription`, `resource_group`, `workspace`, `identity`.
    environ : mapping
        Variables, for the names that are not given, and for the sign-in.

    Returns
    -------
    dict
        What `target.json` holds: `uri` and `aml`. No secrets.

    Raises
    ------
    HouseError
        It names what is missing.
    """
    given = dict(aml or {})
    identity = given.get("identity") or "default"
    if identity == "user_identity":
        raise HouseError(
            "identity: user_identity is not known here, as it needs the deprecated parts of Azure's packages; "
            "a job of Azure ML signs in by its own variables, with identity: default"
        )
    if identity not in IDENTITIES:
        raise HouseError(f"identity: {identity!r} is not known; give one of {', '.join(IDENTITIES)}")
    _check_packages()
    names = {key: given.get(key) or environ.get(variable) or None for key, (_, variable) in WORKSPACE.items()}
    if tracking_uri:
        uri = _checked(tracking_uri)
        found = _SCOPE.search(uri)
        assert found is not None
        names = dict(zip(names, found.groups()))
    else:
        missing = [f"{key} (or {variable})" for name, (key, variable) in WORKSPACE.items() if not names[name]]
        if missing:
            raise HouseError(f"Azure ML: the workspace is not known: set {', '.join(missing)}")
        uri = workspace_uri(names["subscription"], names["resource_group"], names["workspace"])
    if not _is_job(environ):
        _check_sign_in(identity, environ)
    return {"uri": uri, "aml": {**names, "identity": identity}}


def workspace_uri(subscription: str | None, resource_group: str | None, workspace: str | None) -> str:
    """Address of a workspace of which the host is yet to be asked for."""
    return f"azureml:///subscriptions/{subscription}/resourceGroups/{resource_group}/{_PROVIDER}/{workspace}"


class SignIn:
    """Credential that asks nobody: no browser, no device code.

    Parameters
    ----------
    identity : str
        One of `IDENTITIES`.
    authority : str
        Host to sign in at.
    """

    def __init__(self, identity: str, authority: str) -> None:
        self._identity, self._authority = identity, authority
        self._credentials: list[Any] | None = None

    @property
    def credentials(self) -> list[Any]:
        """The ways that are tried, one after the other."""
        if self._credentials is None:
            self._credentials = [make() for make in self._ways()]
        return self._credentials

    def forget(self) -> None:
        """Ask for a new token next time: the server does not take the one that is kept."""
        self._credentials = None

    def get_token(self, *scopes: str, **settings: Any) -> AccessToken:
        """As Azure's libraries ask for it."""
        from azure.identity import CredentialUnavailableError

        reasons = []
        for credential in self.credentials:
            try:
                return credential.get_token(*scopes, **settings)
            except CredentialUnavailableError as unavailable:
                reasons.append(f"{type(credential).__name__}: {one_line(str(unavailable), 100)}")
        raise UnavailableError(f"no sign-in to Azure: {'; '.join(reasons)}", 1)

    def _ways(self) -> list[Callable[[], Any]]:
        from azure.identity import (
            AzureCliCredential,
            EnvironmentCredential,
            ManagedIdentityCredential,
            WorkloadIdentityCredential,
        )

        # To repeat is the drain's part; and outside of Azure, nobody answers where its machines get their identity.
        short: dict[str, Any] = {"retry_total": 0, "connection_timeout": 5, "read_timeout": TIMEOUT_S}

        def principal() -> Any:
            return EnvironmentCredential(authority=self._authority, **short)

        def workload() -> Any:
            return WorkloadIdentityCredential(authority=self._authority, **short)

        def managed() -> Any:
            client = os.environ.get("DEFAULT_IDENTITY_CLIENT_ID") or os.environ.get("AZURE_CLIENT_ID") or None
            return ManagedIdentityCredential(client_id=client, **short | {"connection_timeout": 2})

        def cli() -> Any:
            return AzureCliCredential(process_timeout=2 * TIMEOUT_S)

        federated = [workload] if os.environ.get(_FEDERATED) else []
        match self._identity:
            case "service_principal":
                return federated or [principal]
            case "managed":
                return [managed]
            case "cli":
                return [cli]
            case _:
                return [principal, *federated, managed, cli]


class AzureServer(Server):
    """A workspace of Azure ML.

    Parameters
    ----------
    uri : str
        With its host, or as from `workspace_uri`.
    aml : dict or None
        As in `target.json`; `identity` is read from it.
    """

    limits = Limits(metrics=200, params=100, tags=50)
    overwrites = False

    def __init__(self, uri: str, aml: Mapping[str, str | None] | None = None) -> None:
        super().__init__(uri)
        _check_packages()
        _checked(uri)
        self._identity = (aml or {}).get("identity") or "default"
        self._auth: SignIn | None = None
        self._reserved: dict[tuple[str, str], str] = {}

    def newest(self, run_id: str) -> None:
        """Not to be relied upon: which row Azure takes for a metric's newest is not written down."""
        return

    def discard(self, run_id: str) -> None:
        """Take away a run; where Azure keeps it, it has no tag by which it could be found."""
        with suppress(RefusedError):
            super().discard(run_id)

    def explain(self, failure: Exception) -> ServerError:
        """What a failure means; after one of the sign-in, the next call gets a new token."""
        chain = failures(failure)
        told = " ".join(map(str, chain))
        if any(isinstance(one, ServerError) for one in chain):
            return next(one for one in chain if isinstance(one, ServerError))
        if found := re.search(r"AADSTS\d+", told):
            why = _REASONS.get(found[0], one_line(told.partition(f"{found[0]}:")[2], 150))
            return UnavailableError(f"sign-in to Azure refused: {why} ({found[0]})", 1)
        explained = super().explain(failure)
        if explained.args[0].startswith(self.name) and "Authentication failed" in told:
            return UnavailableError(f"sign-in to Azure refused: {one_line(told, 150)}", 1)
        if "(401)" in str(explained):
            if self._auth is not None:
                self._auth.forget()
            return UnavailableError(f"{self._names_host()} does not take the token (401)")
        if "(404)" in str(explained) and "/workspaces/" in told:
            return self._no_workspace()
        if "(403)" in str(explained):
            return UnavailableError(f"access denied to {self.name}: this identity has no role there (403)", 1)
        return explained

    def _connect(self) -> MlflowClient:
        # Ahead of MLflow: it asks the cloud for its addresses when it is imported, and MLflow does not survive if that
        # fails in the middle of its own import.
        from azureml.mlflow._common._cloud import cloud as clouds

        # Without a name, the plugin would look for one in the internet each time that it makes a client.
        name = os.environ.setdefault("AZUREML_CURRENT_CLOUD", next(iter(clouds.KNOWN_CLOUDS)))
        import mlflow
        from azureml.mlflow._internal.service_context_loader import _AzureMLServiceContextLoader as Contexts
        from azureml.mlflow._internal.utils import ServiceContext

        if _is_job(os.environ):
            uri = self.uri  # the plugin knows these variables, and renews the token
        else:
            cloud = clouds._get_cloud_or_default(name)
            self._auth = SignIn(self._identity, cloud._get_authority())
            uri = self.uri if urlsplit(self.uri).netloc else self._ask_for_host(cloud)
            found = _SCOPE.search(uri)
            assert found is not None
            subscription, group, workspace = found.groups()
            Contexts.add_service_context(
                uri,
                ServiceContext(
                    host_url=f"https://{urlsplit(uri).netloc}",
                    subscription_id=subscription,
                    resource_group_name=group,
                    workspace_name=workspace,
                    auth=self._auth,
                    cloud=cloud,
                ),
            )
        mlflow.set_tracking_uri(uri)
        client = mlflow.MlflowClient(uri)
        if self._auth is not None:
            # MLflow keeps the store of an address, and with it the credential that it was made with.
            client._tracking_client.store.service_context._auth = self._auth
        return client

    def _ask_for_host(self, cloud: Any) -> str:
        """Address of the workspace with its host, from Azure's resource manager."""
        import requests

        assert self._auth is not None
        found = _SCOPE.search(self.uri)
        assert found is not None
        token = self._auth.get_token(cloud._get_default_scope()).token
        manager = cloud.endpoints.resource_manager.rstrip("/")
        answer = requests.get(
            f"{manager}{found[0]}?api-version={_ARM_VERSION}",
            headers={"Authorization": f"Bearer {token}"},
            timeout=TIMEOUT_S,
        )
        if answer.status_code == 404:
            raise self._no_workspace()
        answer.raise_for_status()
        return answer.json()["properties"]["mlFlowTrackingUri"]

    def _no_workspace(self) -> UnavailableError:
        found = _SCOPE.search(self.uri)
        assert found is not None
        subscription, group, workspace = found.groups()
        return UnavailableError(
            f"there is no workspace {workspace} in the resource group {group} of the subscription {subscription}, "
            "or this identity may not see it",
            1,
        )

    def _names_host(self) -> str:
        return urlsplit(self.uri).netloc or self.name

    def _upload(self, run_id: str, local: Path, name: str) -> None:
        from azure.core.exceptions import ResourceExistsError
        from azure.storage.blob import BlobClient

        # A name can be had once. If only its content did not get there, that is sent again to the same place.
        address = self._reserved.get((run_id, name)) or self._reserve(run_id, name)
        self._reserved[run_id, name] = address
        with local.open("rb") as content:
            try:
                BlobClient.from_blob_url(address, **_SHORT).upload_blob(content)
            except ResourceExistsError:
                raise ExistsError(f"{name}: there is an artifact of that name") from None
        del self._reserved[run_id, name]

    def _reserve(self, run_id: str, name: str) -> str:
        """Take a name, and return the address that its content is to be sent to."""
        from azureml.mlflow._restclient.run_artifact.models import ArtifactPath, ArtifactPathList

        client, place = self._run_artifacts(run_id)
        made = client.batch_create_empty_artifacts(
            **place, body=ArtifactPathList(paths=[ArtifactPath(path=name)]), retry_total=0
        )
        for refused in (made.errors or {}).values():
            told = f"{refused.error.code}: {refused.error.message}"
            if "already exists" in told or "Resource Conflict" in told:
                raise ExistsError(f"{name}: there is an artifact of that name")
            raise RefusedError(one_line(told))
        return made.artifact_content_information[name].content_uri

    def _content(self, run_id: str, name: str) -> bytes | None:
        from azure.core.exceptions import ResourceNotFoundError
        from azure.storage.blob import BlobClient

        client, place = self._run_artifacts(run_id)
        try:
            found = client.get_content_information(**place, path=name, retry_total=0)
        except ResourceNotFoundError:
            return None
        if not found or not found.content_uri:
            return None
        try:
            return BlobClient.from_blob_url(found.content_uri, **_SHORT).download_blob().readall()
        except ResourceNotFoundError:
            return None  # a name that was taken, and got no content

    def _run_artifacts(self, run_id: str) -> tuple[Any, dict[str, str]]:
        """The plugin's own client, and where the run's artifacts are.

        Its methods for files would repeat a request that fails for half a minute, whatever is set.
        """
        repository: Any = self.client._tracking_client._get_artifact_repo(run_id)
        artifacts = repository.artifacts
        context = artifacts._service_context
        place = {
            "subscription_id": context.subscription_id,
            "resource_group_name": context.resource_group_name,
            "workspace_name": context.workspace_name,
            "experiment_name": artifacts._experiment_name,
            "run_id": run_id,
        }
        return artifacts._client.run_artifacts, place


_SHORT: dict[str, Any] = {"retry_total": 0, "connection_timeout": TIMEOUT_S, "read_timeout": 6 * TIMEOUT_S}


def _check_packages() -> None:
    from importlib.metadata import PackageNotFoundError, version

    try:
        version("azureml-mlflow")
        version("azure-identity")
    except PackageNotFoundError as missing:
        raise HouseError(f"Azure ML: {missing.name} is not installed: pip install 'anemoi-house[azure]'") from None


def _checked(uri: str) -> str:
    """The address, if it is that of a workspace."""
    check_uri(uri)
    if urlsplit(uri).scheme != "azureml":
        raise HouseError(
            f"tracking_uri: {uri} is not in Azure ML; give diagnostics=house_mlflow for it, or unset "
            "MLFLOW_TRACKING_URI and name the workspace"
        )
    if _SCOPE.search(uri) is None:
        raise HouseError(
            f"tracking_uri: {uri} names no workspace; it is like "
            f"azureml://HOST/mlflow/v1.0/subscriptions/S/resourceGroups/R/{_PROVIDER}/W"
        )
    return uri


def _is_job(environ: Mapping[str, str]) -> bool:
    """Whether this is a job of Azure ML, which has an address, a token and a run of its own."""
    names = ("MLFLOW_TRACKING_URI", "MLFLOW_TRACKING_TOKEN", "MLFLOW_RUN_ID")
    experiment = environ.get("MLFLOW_EXPERIMENT_ID") or environ.get("MLFLOW_EXPERIMENT_NAME")
    return all(environ.get(name) for name in names) and bool(experiment)


def _check_sign_in(identity: str, environ: Mapping[str, str]) -> None:
    """Raise a HouseError if it is plain from the environment alone that nobody can sign in."""
    has = {name for name in (*_PRINCIPAL, _CERTIFICATE, _FEDERATED) if environ.get(name)}
    keys = {"AZURE_CLIENT_SECRET", _CERTIFICATE, _FEDERATED}
    missing = [name for name in _PRINCIPAL if name not in has and not (name == "AZURE_CLIENT_SECRET" and keys & has)]
    on_azure = _on_azure(environ)
    if identity == "cli" and not _has_cli(environ):
        raise HouseError("identity: cli: there is no command az here; install the Azure CLI, and az login")
    if identity == "service_principal" and missing:
        raise HouseError(f"identity: service_principal: not set: {', '.join(missing)}")
    if identity != "default" or not missing:
        return
    # A client id alone chooses among the identities of a machine.
    if has - {"AZURE_CLIENT_ID"} or (has and not on_azure):
        raise HouseError(
            f"Azure sign-in: {_and(sorted(has))} {'is' if len(has) == 1 else 'are'} set, and not {_and(missing)}; "
            "set all, or give identity: managed or identity: cli"
        )
    if not on_azure and not _has_cli(environ):
        raise HouseError(
            f"Azure sign-in: nothing to sign in with. Set {_and(_PRINCIPAL)}, as in a file ~/.azure.sh that is "
            "sourced before; or install the Azure CLI, and az login; or give identity: managed on a machine of Azure"
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


def _and(names: Sequence[str]) -> str:
    return " and ".join(filter(None, [", ".join(names[:-1]), names[-1]]))
