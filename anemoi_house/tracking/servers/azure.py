"""Azure ML workspaces: settings, sign-in and artifacts, through `azureml-mlflow` and `azure-identity`.

The plugin `azureml-mlflow` would end its own search for a sign-in with a browser and a device code, which nobody sees
on a compute node; it is given our sign-in instead. Both packages are imported only where they are needed.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

from anemoi_house.errors import HouseError
from anemoi_house.tracking.servers.azure_sign_in import IDENTITIES, SignIn, check_sign_in
from anemoi_house.tracking.servers.base import TIMEOUT_S, Limits, Server, check_no_password, explained, hide_secrets
from anemoi_house.tracking.servers.failures import (
    ExistsError,
    RefusedError,
    ServerError,
    UnavailableError,
    failures,
    one_line,
)
from anemoi_house.tracking.servers.mlflow import MlflowServer, prepare_process

if TYPE_CHECKING:
    from mlflow import MlflowClient

WORKSPACE = {
    "subscription": ("subscription_id", ("AZUREML_ARM_SUBSCRIPTION", "AZURE_SUBSCRIPTION_ID")),
    "resource_group": ("resource_group", ("AZUREML_ARM_RESOURCEGROUP",)),
    "workspace": ("workspace_name", ("AZUREML_ARM_WORKSPACE_NAME",)),
}
"""The names of a workspace: keys of `config.json` and, after `aml_`, of the config; and variables."""
CONFIG_FILES = ("config.json", ".azureml/config.json")
"""Files that name a workspace, as azureml-core and azure-ai-ml find them: here or in a directory above."""
check_uri = check_no_password
_PROVIDER = "providers/Microsoft.MachineLearningServices/workspaces"
_SCOPE = re.compile(rf"/subscriptions/([^/]+)/resourceGroups/([^/]+)/{_PROVIDER}/([^/?]+)", re.IGNORECASE)
_ARM_VERSION = "2023-04-01"
_CALL: dict[str, Any] = {"retry_total": 0, "connection_timeout": TIMEOUT_S, "read_timeout": 6 * TIMEOUT_S}
_REASONS = {
    "AADSTS7000215": "the client secret is wrong",
    "AADSTS7000222": "the client secret has expired",
    "AADSTS700016": "the tenant AZURE_TENANT_ID has no application AZURE_CLIENT_ID",
    "AADSTS90002": "the tenant AZURE_TENANT_ID does not exist",
    "AADSTS900023": "AZURE_TENANT_ID is not a valid tenant",
    "AADSTS700027": "the certificate does not belong to the application",
    "AADSTS700024": "the token in AZURE_FEDERATED_TOKEN_FILE has expired",
    "AADSTS700082": "the sign-in of the Azure CLI has expired; run: az login",
    "AADSTS50173": "the sign-in of the Azure CLI has expired; run: az login",
}


def shown_uri(uri: str) -> str:
    """Return the name of the workspace, if the address has one."""
    found = re.search(r"/workspaces/([^/?]+)", uri)
    return f"Azure ML workspace {unquote(found[1])}" if found else hide_secrets(uri)


def target(uri: str, given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the `target.json` for an address; `azureml:` alone is the workspace of the settings or the environment."""
    return check_settings(uri if "/subscriptions/" in uri else None, given.get("aml"), os.environ)


def connect(target: Mapping[str, Any]) -> Server:
    """Return the server of a `target.json`."""
    prepare_process()
    os.environ["AZUREML_HTTP_REQUEST_TIMEOUT"] = str(TIMEOUT_S)
    return AzureServer(target["uri"], target.get("aml"))


def check_settings(
    tracking_uri: str | None, aml: Mapping[str, str | None] | None, environ: Mapping[str, str]
) -> dict[str, Any]:
    """Check the settings as far as that is possible without a network.

    Parameters
    ----------
    tracking_uri : str or None
        Address of a workspace, which a job of Azure ML has in MLFLOW_TRACKING_URI; without it, the names below count.
    aml : mapping or None
        `subscription`, `resource_group`, `workspace`, `identity`.
    environ : mapping
        Variables, for the names that are not given and for the sign-in. Names that are not there either come from a
        `config.json` in the working directory or above it.

    Returns
    -------
    dict
        Content of `target.json`: `uri` and `aml`. It holds no secrets.

    Raises
    ------
    HouseError
        A setting is missing or wrong; the message names it.
    """
    given = dict(aml or {})
    identity = given.get("identity") or "default"
    if identity == "user_identity":
        raise HouseError(
            "identity: user_identity is not supported, as it needs deprecated Azure packages. Use identity: default; "
            "a job of Azure ML signs in with its own variables."
        )
    if identity not in IDENTITIES:
        raise HouseError(f"identity: {identity!r} is not known. Give one of {', '.join(IDENTITIES)}.")
    _check_packages()
    names = dict(zip(WORKSPACE, _workspace(tracking_uri))) if tracking_uri else _names(given, environ)
    if not _is_job(environ):
        check_sign_in(identity, environ)
    uri = tracking_uri or workspace_uri(names["subscription"], names["resource_group"], names["workspace"])
    return {"uri": uri, "aml": {**names, "identity": identity}}


def _names(given: Mapping[str, str | None], environ: Mapping[str, str]) -> dict[str, str]:
    """Return the names of a workspace: from the config, else from variables, else from a file."""
    names = {
        name: given.get(name) or next(filter(None, map(environ.get, variables)), None)
        for name, (_, variables) in WORKSPACE.items()
    }
    if not all(names.values()):
        from_file = _config_file(Path.cwd())
        names = {name: value or from_file.get(WORKSPACE[name][0]) for name, value in names.items()}
    if missing := [f"aml_{key} (or {or_[0]})" for name, (key, or_) in WORKSPACE.items() if not names[name]]:
        raise HouseError(
            f"Azure ML: the workspace is not known. Set {', '.join(missing)}, or put the workspace's config.json here."
        )
    return {name: str(value) for name, value in names.items()}


def _config_file(folder: Path) -> dict[str, str]:
    """Return the nearest file that names a workspace, from a directory upwards; empty if there is none."""
    for path in (parent / name for parent in (folder, *folder.parents) for name in CONFIG_FILES):
        with suppress(OSError, ValueError):  # a config.json of something else
            content = json.loads(path.read_text())
            if isinstance(content, dict) and "workspace_name" in content:
                return content
    return {}


def workspace_uri(subscription: str | None, resource_group: str | None, workspace: str | None) -> str:
    """Return the address of a workspace before its host is known."""
    return f"azureml:///subscriptions/{subscription}/resourceGroups/{resource_group}/{_PROVIDER}/{workspace}"


class AzureServer(MlflowServer):
    """An Azure ML workspace.

    Parameters
    ----------
    uri : str
        With its host, or as from `workspace_uri`.
    aml : dict or None
        As in `target.json`; only `identity` is used.
    """

    limits = Limits(metrics=200, params=100, tags=50)
    overwrites = False
    marks = ("error_code", "error", "statusCode")

    def __init__(self, uri: str, aml: Mapping[str, str | None] | None = None) -> None:
        super().__init__(uri, name=shown_uri(uri))
        _check_packages()
        self._workspace = _workspace(uri)
        self._identity = (aml or {}).get("identity") or "default"
        self._auth: SignIn | None = None
        self._reserved: dict[tuple[str, str], str] = {}

    has_rows = Server.has_rows  # where the pages of a history begin is not documented

    def sizes(self, run_id: str, folder: str) -> None:
        """Return None: the answer to an upload is that of the blob storage itself, and checked."""
        return

    def newest(self, run_id: str) -> None:
        """Return None: Azure does not document which row counts as a metric's newest."""
        return

    def discard(self, run_id: str) -> None:
        """Delete a run; if Azure keeps it, it has lost the tag by which it could be found."""
        with suppress(RefusedError):
            super().discard(run_id)

    def explain(self, failure: Exception) -> ServerError:
        """Return the error by which the sender decides what to do about a failure; drop a rejected token."""
        chain = failures(failure)
        texts = " ".join(map(str, chain))
        if known := next((one for one in chain if isinstance(one, ServerError)), None):
            return known
        if found := re.search(r"AADSTS\d+", texts):
            why = _REASONS.get(found[0], one_line(texts.partition(f"{found[0]}:")[2], 150))
            return UnavailableError(f"sign-in to Azure refused: {why} ({found[0]})", 1)
        explained = super().explain(failure)
        if explained.args[0].startswith(self.name) and "Authentication failed" in texts:
            return UnavailableError(f"sign-in to Azure refused: {one_line(texts, 150)}", 1)
        if "(401)" in str(explained):
            if self._auth is not None:
                self._auth.forget()
            return UnavailableError(f"{self.host} rejects the token (401)")
        if "(404)" in str(explained) and "/workspaces/" in texts:
            return self._no_workspace()
        if "(403)" in str(explained):
            return UnavailableError(f"access denied to {self.name}: this identity has no role there (403)", 1)
        return explained

    def _connect(self) -> MlflowClient:
        # Before MLflow: this module asks the cloud for its addresses when it is imported, and a failure in the middle
        # of MLflow's own import cannot be repaired.
        from azureml.mlflow._common._cloud import cloud as clouds

        # Without a name, the plugin would look for one on the internet for each client.
        name = os.environ.setdefault("AZUREML_CURRENT_CLOUD", next(iter(clouds.KNOWN_CLOUDS)))
        import mlflow
        from azureml.mlflow._internal.service_context_loader import _AzureMLServiceContextLoader as Contexts
        from azureml.mlflow._internal.utils import ServiceContext

        if _is_job(os.environ):
            uri = self.uri  # the plugin knows the variables of a job, and renews its token
        else:
            cloud = clouds._get_cloud_or_default(name)
            self._auth = SignIn(self._identity, cloud._get_authority())
            uri = self.uri if urlsplit(self.uri).netloc else self._ask_for_host(cloud)
            subscription, group, workspace = _workspace(uri)
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
            # MLflow caches the store of an address, and with it the credential of its first client.
            client._tracking_client.store.service_context._auth = self._auth
        return client

    def _ask_for_host(self, cloud: Any) -> str:
        """Return the address of the workspace with its host, from Azure's resource manager."""
        import requests

        assert self._auth is not None
        scope = urlsplit(workspace_uri(*self._workspace)).path
        token = self._auth.get_token(cloud._get_default_scope()).token
        answer = requests.get(
            f"{cloud.endpoints.resource_manager.rstrip('/')}{scope}?api-version={_ARM_VERSION}",
            headers={"Authorization": f"Bearer {token}"},
            timeout=TIMEOUT_S,
        )
        if answer.status_code == 404:
            raise self._no_workspace()
        answer.raise_for_status()
        return answer.json()["properties"]["mlFlowTrackingUri"]

    def _no_workspace(self) -> UnavailableError:
        subscription, group, workspace = self._workspace
        return UnavailableError(
            f"the workspace {workspace} does not exist in the resource group {group} of the subscription "
            f"{subscription}, or this identity may not see it",
            1,
        )

    def _upload(self, run_id: str, local: Path, name: str) -> None:
        from azure.core.exceptions import ResourceExistsError
        from azure.storage.blob import BlobClient

        # A name can be reserved once. If the upload then fails, the next attempt uses the same address.
        address = self._reserved.get((run_id, name)) or self._reserve(run_id, name)
        self._reserved[run_id, name] = address
        with local.open("rb") as content:
            try:
                BlobClient.from_blob_url(address, **_CALL).upload_blob(content)
            except ResourceExistsError:
                raise _exists(name) from None
        del self._reserved[run_id, name]

    def _reserve(self, run_id: str, name: str) -> str:
        """Reserve a name, and return the address to which its content is uploaded."""
        from azureml.mlflow._restclient.run_artifact.models import ArtifactPath, ArtifactPathList

        client, run = self._run_artifacts(run_id)
        made = client.batch_create_empty_artifacts(
            **run, body=ArtifactPathList(paths=[ArtifactPath(path=name)]), retry_total=0
        )
        for refused in (made.errors or {}).values():
            reason = f"{refused.error.code}: {refused.error.message}"
            if "already exists" in reason or "Resource Conflict" in reason:
                raise _exists(name)
            raise RefusedError(one_line(reason))
        return made.artifact_content_information[name].content_uri

    @explained
    def artifact(self, run_id: str, name: str) -> bytes | None:
        """Return the content of an artifact, or None if there is none."""
        from azure.core.exceptions import ResourceNotFoundError
        from azure.storage.blob import BlobClient

        client, run = self._run_artifacts(run_id)
        try:
            found = client.get_content_information(**run, path=name, retry_total=0)
            if not found or not found.content_uri:
                return None
            return BlobClient.from_blob_url(found.content_uri, **_CALL).download_blob().readall()
        except ResourceNotFoundError:
            return None  # no such name, or one that was reserved and got no content

    def _run_artifacts(self, run_id: str) -> tuple[Any, dict[str, str]]:
        """Return the plugin's own client, and the arguments that name a run to it.

        Its methods for files would repeat a failed request for half a minute, whatever is set.
        """
        repository: Any = self.client._tracking_client._get_artifact_repo(run_id)
        artifacts = repository.artifacts
        context = artifacts._service_context
        run = {
            "subscription_id": context.subscription_id,
            "resource_group_name": context.resource_group_name,
            "workspace_name": context.workspace_name,
            "experiment_name": artifacts._experiment_name,
            "run_id": run_id,
        }
        return artifacts._client.run_artifacts, run


def _exists(name: str) -> ExistsError:
    return ExistsError(f"{name}: an artifact of that name exists")


def _check_packages() -> None:
    from importlib.metadata import PackageNotFoundError, version

    try:
        version("azureml-mlflow")
        version("azure-identity")
    except PackageNotFoundError as missing:
        raise HouseError(
            f"Azure ML: {missing.name} is not installed. Run: pip install 'anemoi-house[azure]'."
        ) from None


def _workspace(uri: str) -> tuple[str, str, str]:
    """Return the subscription, resource group and workspace in an address; raise a HouseError if it has none."""
    check_no_password(uri)
    if urlsplit(uri).scheme != "azureml":
        raise HouseError(
            f"tracking_uri: {uri} is not an address of Azure ML. Use diagnostics=house_mlflow for it, or unset "
            "MLFLOW_TRACKING_URI and name the workspace."
        )
    found = _SCOPE.search(uri)
    if found is None:
        raise HouseError(
            f"tracking_uri: {uri} names no workspace. Write it like "
            f"azureml://HOST/mlflow/v1.0/subscriptions/S/resourceGroups/R/{_PROVIDER}/W."
        )
    return found[1], found[2], found[3]


def _is_job(environ: Mapping[str, str]) -> bool:
    """Return whether this is a job of Azure ML, which has an address, a token and a run of its own."""
    names = ("MLFLOW_TRACKING_URI", "MLFLOW_TRACKING_TOKEN", "MLFLOW_RUN_ID")
    experiment = environ.get("MLFLOW_EXPERIMENT_ID") or environ.get("MLFLOW_EXPERIMENT_NAME")
    return all(environ.get(name) for name in names) and bool(experiment)
