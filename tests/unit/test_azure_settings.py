"""What can be known of Azure ML without a network."""

from __future__ import annotations

import importlib.metadata
import inspect
from pathlib import Path
from typing import Any

import pytest

from anemoi_house.errors import HouseError
from anemoi_house.tracking.servers import azure_sign_in
from anemoi_house.tracking.servers.azure import check_settings
from anemoi_house.tracking.servers.azure_sign_in import IDENTITIES, SignIn
from anemoi_house.tracking.servers.failures import UnavailableError

WORKSPACE = {
    "AZUREML_ARM_SUBSCRIPTION": "sub",
    "AZUREML_ARM_RESOURCEGROUP": "rg",
    "AZUREML_ARM_WORKSPACE_NAME": "ws",
}
PRINCIPAL = {"AZURE_TENANT_ID": "t", "AZURE_CLIENT_ID": "c", "AZURE_CLIENT_SECRET": "hunter2hunter2"}
URI = "azureml:///subscriptions/sub/resourceGroups/rg/providers/Microsoft.MachineLearningServices/workspaces/ws"
FULL = URI.replace("azureml://", "azureml://host/mlflow/v1.0")
JOB = {"MLFLOW_TRACKING_URI": FULL, "MLFLOW_TRACKING_TOKEN": "x", "MLFLOW_RUN_ID": "r", "MLFLOW_EXPERIMENT_NAME": "e"}


@pytest.fixture(autouse=True)
def elsewhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Not on a machine of Azure, and without its command line."""
    monkeypatch.setattr(azure_sign_in, "_CHASSIS", tmp_path / "none")
    monkeypatch.setenv("PATH", str(tmp_path))


def test_the_workspace_is_found_in_the_config_or_in_variables() -> None:
    target = check_settings(None, {"identity": "default"}, WORKSPACE | PRINCIPAL)
    assert target["uri"] == URI
    assert target["aml"] == {"subscription": "sub", "resource_group": "rg", "workspace": "ws", "identity": "default"}
    assert "hunter2" not in str(target)
    given = {"subscription": "sub", "resource_group": "rg", "workspace": "other"}
    assert check_settings(None, given, PRINCIPAL)["uri"] == URI.replace("/ws", "/other")
    assert check_settings(FULL, None, PRINCIPAL)["uri"] == FULL
    assert check_settings(FULL, None, PRINCIPAL)["aml"]["workspace"] == "ws"


def test_the_subscription_is_also_found_in_the_variable_of_the_azure_command_line() -> None:
    environ = {**WORKSPACE, "AZURE_SUBSCRIPTION_ID": "other", **PRINCIPAL}
    assert check_settings(None, None, environ)["uri"] == URI
    del environ["AZUREML_ARM_SUBSCRIPTION"]
    assert check_settings(None, None, environ)["uri"] == URI.replace("/sub/", "/other/")


@pytest.mark.parametrize("place", ["config.json", ".azureml/config.json", "runs/here/config.json"])
def test_a_config_json_names_the_workspace_after_config_and_variables(
    place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "runs" / "here").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "runs" / "here")
    (tmp_path / "runs" / "config.json").write_text('{"model_type": "of another program"}')
    file = tmp_path / place
    file.parent.mkdir(exist_ok=True)
    file.write_text('{"subscription_id": "sub", "resource_group": "rg", "workspace_name": "ws"}')
    assert check_settings(None, None, PRINCIPAL)["uri"] == URI
    assert check_settings(None, {"workspace": "mine"}, PRINCIPAL)["uri"] == URI.replace("/ws", "/mine")
    variables = {"AZUREML_ARM_RESOURCEGROUP": "theirs"} | PRINCIPAL
    assert check_settings(None, None, variables)["uri"] == URI.replace("/rg/", "/theirs/")
    for damaged in ("", "[1]", "{", '"workspace_name"'):
        file.write_text(damaged)
        with pytest.raises(HouseError, match=r"the workspace is not known\. Set aml_subscription_id .* config\.json"):
            check_settings(None, None, PRINCIPAL)


@pytest.mark.parametrize(
    ("uri", "aml", "environ", "named"),
    [
        (None, {}, {}, ["aml_subscription_id (or AZUREML_ARM_SUBSCRIPTION)", "aml_workspace_name"]),
        (None, {"workspace": "w"}, {"AZUREML_ARM_SUBSCRIPTION": "s"} | PRINCIPAL, ["AZUREML_ARM_RESOURCEGROUP"]),
        (None, {"identity": "user_identity"}, WORKSPACE | PRINCIPAL, ["user_identity", "identity: default"]),
        (None, {"identity": "magic"}, WORKSPACE | PRINCIPAL, ["'magic'", ", ".join(IDENTITIES)]),
        ("http://x", {}, PRINCIPAL, ["http://x", "house_mlflow"]),
        ("azureml://host/mlflow", {}, PRINCIPAL, ["names no workspace"]),
        ("azureml://me:hunter2hunter2@host/x", {}, PRINCIPAL, ["MLFLOW_TRACKING_PASSWORD"]),
        (None, {}, WORKSPACE, ["no credentials found", "AZURE_TENANT_ID, AZURE_CLIENT_ID and AZURE_CLIENT_SECRET"]),
        (None, {"identity": "cli"}, WORKSPACE, ["the command az is not found"]),
        (None, {"identity": "service_principal"}, WORKSPACE | {"AZURE_CLIENT_ID": "c"}, ["set AZURE_TENANT_ID and A"]),
        (None, {}, WORKSPACE | {"AZURE_CLIENT_SECRET": ""}, ["no credentials found"]),
    ],
)
def test_what_is_missing_is_named(
    uri: str | None, aml: dict[str, str | None], environ: dict[str, str], named: list[str]
) -> None:
    with pytest.raises(HouseError) as mistake:
        check_settings(uri, aml, environ)
    for words in named:
        assert words in str(mistake.value)
    assert "hunter2" not in str(mistake.value)
    assert "\n" not in str(mistake.value)


@pytest.mark.parametrize("missing", list(PRINCIPAL))
def test_half_of_the_variables_is_told_of(missing: str) -> None:
    half = {name: value for name, value in PRINCIPAL.items() if name != missing}
    with pytest.raises(HouseError, match=rf"are set, but not {missing}\."):
        check_settings(None, {}, WORKSPACE | half)
    with pytest.raises(HouseError, match=r"is set, but not"):
        check_settings(None, {}, WORKSPACE | {missing: "x"})


@pytest.mark.parametrize(
    "environ",
    [
        PRINCIPAL,
        {"AZURE_TENANT_ID": "t", "AZURE_CLIENT_ID": "c", "AZURE_CLIENT_CERTIFICATE_PATH": "c.pem"},
        {"AZURE_TENANT_ID": "t", "AZURE_CLIENT_ID": "c", "AZURE_FEDERATED_TOKEN_FILE": "f"},
        {"IDENTITY_ENDPOINT": "http://x", "AZURE_CLIENT_ID": "c"},
        {"MSI_ENDPOINT": "http://x"},
    ],
)
def test_ways_to_sign_in(environ: dict[str, str]) -> None:
    check_settings(None, {"identity": "default"}, WORKSPACE | environ)


def test_ways_to_sign_in_by_the_machine(tmp_path: Path) -> None:
    check_settings(None, {"identity": "managed"}, WORKSPACE)  # whether it has one, only the network knows
    check_settings(FULL, {}, JOB)
    (tmp_path / "none").write_text("7783-7084-3265-9085-8269-3286-77\n")
    check_settings(None, {}, WORKSPACE)
    (tmp_path / "none").unlink()
    (tmp_path / "az").write_text("#!/bin/sh\n")
    (tmp_path / "az").chmod(0o755)
    check_settings(None, {"identity": "cli"}, WORKSPACE | {"PATH": str(tmp_path)})
    check_settings(None, {}, WORKSPACE | {"PATH": str(tmp_path)})


def test_a_missing_package_is_told_of(monkeypatch: pytest.MonkeyPatch) -> None:
    def version(name: str) -> str:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "version", version)
    with pytest.raises(HouseError, match=r"azureml-mlflow is not installed\. Run: pip install 'anemoi-house\[azure\]'"):
        check_settings(None, {}, WORKSPACE | PRINCIPAL)


@pytest.mark.parametrize("identity", IDENTITIES)
@pytest.mark.parametrize("federated", [False, True])
def test_nobody_is_asked_by_browser_or_device_code(
    identity: str, federated: bool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    identities = pytest.importorskip("azure.identity")
    for name, value in PRINCIPAL.items():
        monkeypatch.setenv(name, value)
    if federated:
        monkeypatch.setenv("AZURE_FEDERATED_TOKEN_FILE", str(tmp_path / "token"))
    asking = {
        "InteractiveBrowserCredential",
        "DeviceCodeCredential",
        "AuthorizationCodeCredential",
        "UsernamePasswordCredential",
        "DefaultAzureCredential",
    }
    for name in asking:
        monkeypatch.setattr(getattr(identities, name), "__init__", lambda *_, **__: pytest.fail("somebody is asked"))
    credentials = SignIn(identity, "login.microsoftonline.com").credentials
    made = [type(one).__name__ for one in credentials] + [type(one).__name__ for one in map(_inner, credentials)]
    assert not asking & set(made)
    assert made
    silent = {"EnvironmentCredential", "WorkloadIdentityCredential", "ManagedIdentityCredential", "AzureCliCredential"}
    assert {type(one).__name__ for one in credentials} <= silent


def _inner(credential: Any) -> Any:
    return getattr(credential, "_credential", None)


def test_the_plugin_uses_the_sign_in_that_it_is_handed() -> None:
    """What the guarantee rests on: for an address with a context, the plugin makes no credential of its own."""
    loader = pytest.importorskip("azureml.mlflow._internal.service_context_loader")
    source = inspect.getsource(loader._AzureMLServiceContextLoader.load_service_context)
    assert source.index("has_service_context") < source.index("default_auth")


def test_why_nobody_could_sign_in(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("azure.identity")
    for name in (*PRINCIPAL, "IDENTITY_ENDPOINT", "MSI_ENDPOINT"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(UnavailableError, match="cannot sign in to Azure: AzureCliCredential: Azure CLI not found"):
        SignIn("cli", "login.microsoftonline.com").get_token("scope")
