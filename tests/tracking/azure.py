"""Azure ML as its own client sees it, on top of an MLflow server: sign-in, workspace, tracking, artifacts, over TLS.

Environment variables alone lead the unmodified `azureml-mlflow` here.
"""

from __future__ import annotations

import base64
import json
import os
import re
import secrets
import ssl
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from email.utils import formatdate
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, parse_qsl, quote

from faults.messages import Answer, Incoming
from faults.server import HOST

from tracking.certificates import make_certificates
from tracking.front import Front
from tracking.mlflow_server import MlflowServer

SUBSCRIPTION = "00000000-0000-0000-0000-000000000001"
CLIENT_ID = "11111111-1111-1111-1111-111111111111"

# The client downloads blobs only from addresses with this in them.
_STORAGE = "account.blob.core.windows.net"


@dataclass
class Limits:
    """Limits of Azure, from its documentation and from errors that users have reported."""

    params: int = 200
    param_value: int = 500
    tags: int = 50
    tag_key: int = 100
    tag_value: int = 1000
    batch_metrics: int = 250


@dataclass(frozen=True)
class _Sent:
    """What a request adds to a run."""

    params: Mapping[str, str] = field(default_factory=dict)
    tags: Mapping[str, str] = field(default_factory=dict)
    metrics: int = 0

    @classmethod
    def by(cls, api: str, content: Mapping[str, Any]) -> _Sent:
        """Return what a request to this part of the interface adds."""
        if api.endswith("/runs/log-parameter"):
            return cls(params={content["key"]: content["value"]})
        if api.endswith("/runs/set-tag"):
            return cls(tags={content["key"]: content["value"]})
        if api.endswith(("/runs/log-batch", "/runs/create")):
            params, tags = (
                {pair["key"]: pair.get("value", "") for pair in content.get(name, [])} for name in ("params", "tags")
            )
            return cls(params, tags, len(content.get("metrics", [])))
        return cls()


@dataclass
class _RunNames:
    """Names that count against the limits of a run."""

    params: set[str] = field(default_factory=set)
    tags: set[str] = field(default_factory=set)


class _CloudList(Front):
    """The list of Azure's services, at an address of its own, without TLS and without the workspace's faults.

    The client reads it during its import; for the real Azure it brings the list along.
    """

    def __init__(self, upstream: MlflowServer | str, azure: str) -> None:
        super().__init__(upstream)
        self._azure = azure

    def answer(self, incoming: Incoming) -> Answer:
        names = ["portal", "graphAudience", "batch", "media", "gallery", "sqlManagement", "graph"]
        names += ["activeDirectoryDataLake", "vmImageAliasDoc"]
        cloud = dict.fromkeys(names, self._azure) | {
            "name": "AzureCloud",
            "authentication": {
                "loginEndpoint": self._azure,
                "audiences": ["https://management.core.windows.net/"],
                "tenant": "common",
            },
            "resourceManager": f"{self._azure}/",
            "suffixes": {"storage": "core.windows.net"},
        }
        return Answer.of(200, [cloud])


class AzureFront(Front):
    """An Azure ML workspace.

    Parameters
    ----------
    upstream : MlflowServer or str
        The server that keeps the runs.
    folder : Path
        Holds the certificates.
    token_life_s : float
        Validity of the tokens issued from here on; it may be changed at any time. Clients of azure-identity fetch a new
        one for each call if it is valid for less than five minutes.

    Attributes
    ----------
    client_secret : str
        The password of the service principal.
    secrets : list of str
        Everything that must not be in any file: passwords, all tokens issued, signatures of blob addresses.
    limits : Limits
    clouds : Front
        Lists the services of Azure. It runs from the first start to the end, even while the workspace is down.
    """

    scheme = "https"

    def __init__(
        self,
        upstream: MlflowServer | str,
        folder: Path,
        *,
        subscription: str = SUBSCRIPTION,
        resource_group: str = "rg",
        workspace: str = "ws",
        token_life_s: float = 3600,
    ) -> None:
        super().__init__(upstream)
        folder.mkdir(parents=True, exist_ok=True)
        self.ca, self._certificate = make_certificates(folder)
        self.subscription, self.resource_group, self.workspace = subscription, resource_group, workspace
        self.token_life_s = token_life_s
        self.limits = Limits()
        self.clouds = _CloudList(upstream, self.url)
        self.client_secret = f"s3cr3t-{secrets.token_hex(16)}"
        self._identity_header = f"h3ader-{secrets.token_hex(16)}"
        self._signature = f"s1gnature-{secrets.token_hex(16)}"
        self._tokens: dict[str, float] = {}
        self._names: dict[str, _RunNames] = {}
        self._reserved: set[str] = set()
        self._blobs: set[str] = set()
        self._state = threading.Lock()

    def __exit__(self, *_: object) -> None:
        self.close()

    def start(self) -> None:
        """Listen, the first time or again."""
        super().start()
        if not self.clouds.running:
            self.clouds.start()

    def close(self) -> None:
        """Stop the workspace and the list of clouds."""
        self.stop()
        self.clouds.stop()

    # Variables and addresses for clients

    @property
    def scope(self) -> str:
        """The path of the workspace in Azure's resources."""
        return (
            f"/subscriptions/{self.subscription}/resourceGroups/{self.resource_group}"
            f"/providers/Microsoft.MachineLearningServices/workspaces/{self.workspace}"
        )

    @property
    def uri(self) -> str:
        return f"azureml://{HOST}:{self.port}/mlflow/v1.0{self.scope}"

    @property
    def cloud_environment(self) -> dict[str, str]:
        """Variables with the address and the certificate of this Azure, without a sign-in."""
        return self.without_proxy | {
            "REQUESTS_CA_BUNDLE": str(self.ca),
            "ARM_CLOUD_METADATA_URL": f"{self.clouds.url}/metadata/endpoints",
            "AZURE_AUTHORITY_HOST": self.url,
            # Without a name the client looks for clouds on the internet.
            "AZUREML_CURRENT_CLOUD": "AzureCloud",
        }

    @property
    def principal(self) -> dict[str, str]:
        """Sign-in of a service principal."""
        # For a tenant of this name, the sign-in library accepts any host without asking Microsoft.
        return {
            "AZURE_TENANT_ID": "adfs",
            "AZURE_CLIENT_ID": CLIENT_ID,
            "AZURE_CLIENT_SECRET": self.client_secret,
        }

    @property
    def managed_identity(self) -> dict[str, str]:
        """Sign-in of a machine in Azure."""
        return {"IDENTITY_ENDPOINT": f"{self.url}/msi/token", "IDENTITY_HEADER": self._identity_header}

    def azure_cli(self, folder: Path) -> dict[str, str]:
        """Variables for a sign-in with `az login`: an `az` in `folder` that knows one token."""
        expires = time.time() + self.token_life_s
        known = {
            "accessToken": self.issue_token(),
            "expires_on": int(expires),
            "expiresOn": time.strftime("%Y-%m-%d %H:%M:%S.000000", time.localtime(expires)),
            "tenant": "adfs",
            "tokenType": "Bearer",
        }
        program = folder / "az"
        program.write_text(f"#!/bin/sh\ncat <<'END'\n{json.dumps(known)}\nEND\n")
        program.chmod(0o755)
        return {"PATH": f"{folder}{os.pathsep}{os.environ['PATH']}"}

    @property
    def workspace_names(self) -> dict[str, str]:
        """The workspace by its names, in place of a tracking address."""
        return {
            "AZUREML_ARM_SUBSCRIPTION": self.subscription,
            "AZUREML_ARM_RESOURCEGROUP": self.resource_group,
            "AZUREML_ARM_WORKSPACE_NAME": self.workspace,
        }

    @property
    def environment(self) -> dict[str, str]:
        """All that the client needs: cloud, service principal and tracking address."""
        return self.cloud_environment | self.principal | {"MLFLOW_TRACKING_URI": self.uri}

    @property
    def workspace_environment(self) -> dict[str, str]:
        """The same with the names of the workspace in place of a tracking address."""
        return self.cloud_environment | self.principal | self.workspace_names

    def job_environment(self, run_id: str, experiment_id: str) -> dict[str, str]:
        """What a job of Azure ML finds: a run that exists, and a token for it."""
        return self.cloud_environment | {
            "MLFLOW_TRACKING_URI": self.uri,
            "MLFLOW_TRACKING_TOKEN": self.issue_token(),
            "MLFLOW_RUN_ID": run_id,
            "MLFLOW_EXPERIMENT_ID": experiment_id,
        }

    def tls(self) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self._certificate)
        return context

    # Sign-in

    @property
    def secrets(self) -> list[str]:
        """Everything that must not be in any file."""
        with self._state:
            return [self.client_secret, self._identity_header, self._signature, *self._tokens]

    def issue_token(self, life_s: float | None = None) -> str:
        """Issue a token that is valid for `token_life_s`, or `life_s`."""

        def encoded(part: object) -> str:
            return base64.urlsafe_b64encode(json.dumps(part).encode()).decode().rstrip("=")

        expires = time.time() + (self.token_life_s if life_s is None else life_s)
        # Nothing verifies the signature; it can be decoded, and is unique.
        content = encoded({"alg": "RS256", "typ": "JWT"}), encoded({"exp": int(expires), "jti": secrets.token_hex(8)})
        token = ".".join((*content, f"t0k-{secrets.token_hex(16)}"))
        with self._state:
            self._tokens[token] = expires
        return token

    def revoke_tokens(self) -> None:
        """Refuse all tokens issued so far, which clients still consider valid."""
        with self._state:
            self._tokens = dict.fromkeys(self._tokens, 0.0)

    @property
    def tokens_issued(self) -> int:
        """Number of tokens issued."""
        with self._state:
            return len(self._tokens)

    def _signed_in(self, incoming: Incoming) -> bool:
        headers = {name.lower(): value for name, value in incoming.headers.items()}
        token = headers.get("authorization", "").removeprefix("Bearer ")
        with self._state:
            return self._tokens.get(token, 0.0) > time.time()

    def _token(self, incoming: Incoming) -> Answer:
        form = dict(parse_qsl(incoming.body.decode()))
        if form.get("client_id") != CLIENT_ID:
            message = f"Application with identifier '{form.get('client_id')}' was not found in the directory."
            return _refused_sign_in(400, "unauthorized_client", 700016, message)
        if form.get("client_secret") != self.client_secret:
            message = (
                "Invalid client secret provided. Ensure the secret being sent in the request is the client secret"
                f" value, not the client secret ID, for a secret added to app '{CLIENT_ID}'."
            )
            return _refused_sign_in(401, "invalid_client", 7000215, message)
        token = self.issue_token()
        return Answer.of(200, {"token_type": "Bearer", "expires_in": int(self.token_life_s), "access_token": token})

    def _machine_token(self, incoming: Incoming) -> Answer:
        headers = {name.lower(): value for name, value in incoming.headers.items()}
        if headers.get("x-identity-header") != self._identity_header:
            return self.error(401, "Unauthorized", "The header X-IDENTITY-HEADER is not that of this machine.")
        expires = str(int(time.time() + self.token_life_s))
        resource = parse_qs(incoming.query).get("resource", [""])[0]
        return Answer.of(
            200,
            {"access_token": self.issue_token(), "expires_on": expires, "resource": resource, "token_type": "Bearer"},
        )

    def _run_token(self, incoming: Incoming, parts: Mapping[str, str]) -> Answer:
        expires = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() + self.token_life_s))
        return Answer.of(200, {"token": self.issue_token(), "expiryTimeUtc": expires})

    # Answers

    def answer(self, incoming: Incoming) -> Answer:
        for pattern, respond in self._open_routes:
            if re.fullmatch(pattern, incoming.path):
                return respond(self, incoming)
        if not self._signed_in(incoming):
            refused = self.error(401, "UserError", "The bearer token is missing, expired or not valid.")
            return replace(
                refused, headers=dict(refused.headers) | {"WWW-Authenticate": 'Bearer error="invalid_token"'}
            )
        for pattern, respond_in in self._routes:
            if found := re.fullmatch(pattern, incoming.path):
                if found["scope"].lower() != self.scope.lower():
                    return self._no_workspace(found["scope"], incoming)
                return respond_in(self, incoming, found.groupdict())
        return self.error(404, "UserError", f"There is nothing at {incoming.path}.")

    def error(self, status: int, code: str, message: str) -> Answer:
        content = {
            "Error": {"Code": code, "Severity": None, "Message": message, "Details": [], "InnerError": None},
            "Correlation": {"operation": secrets.token_hex(16), "request": secrets.token_hex(8)},
            "Environment": "eastus",
            "Location": "eastus",
            "ComponentName": "mlflow",
            "statusCode": status,
        }
        if status == 400:
            content["error_code"] = "INVALID_PARAMETER_VALUE"
        return Answer.of(status, content)

    def _no_workspace(self, scope: str, incoming: Incoming) -> Answer:
        name, group = scope.rpartition("/")[2], scope.split("/")[4]
        message = (
            f"The Resource 'Microsoft.MachineLearningServices/workspaces/{name}' under resource group '{group}' was not"
            " found. For more details please go to https://aka.ms/ARMResourceNotFoundFix"
        )
        if incoming.path == scope:
            return Answer.of(404, {"error": {"code": "ResourceNotFound", "message": message}})
        return self.error(404, "UserError", message)

    def _sign_in_endpoints(self, incoming: Incoming) -> Answer:
        tenant = f"{self.url}/{incoming.path.split('/')[1]}"
        return Answer.of(
            200,
            {
                "issuer": tenant,
                "authorization_endpoint": f"{tenant}/oauth2/authorize",
                "token_endpoint": f"{tenant}/oauth2/token",
            },
        )

    def _workspace(self, incoming: Incoming, parts: Mapping[str, str]) -> Answer:
        properties = {
            "friendlyName": self.workspace,
            "mlFlowTrackingUri": self.uri,
            "discoveryUrl": f"{self.url}/discovery",
            "provisioningState": "Succeeded",
        }
        kind = "Microsoft.MachineLearningServices/workspaces"
        content = {"id": self.scope, "name": self.workspace, "type": kind, "location": "eastus"}
        return Answer.of(200, content | {"properties": properties})

    # Tracking

    def _tracking(self, incoming: Incoming, parts: Mapping[str, str]) -> Answer:
        api = parts["api"]
        if not api.startswith("/api/2.0/mlflow/") or api.startswith("/api/2.0/mlflow/logged-models"):
            return Answer(404)  # without a word, as Azure does
        content = json.loads(incoming.body) if incoming.body else {}
        sent = _Sent.by(api, content)
        if refused := self._over_limits(content.get("run_id", ""), sent):
            return refused
        headers = {name: value for name, value in incoming.headers.items() if name.lower() == "content-type"}
        target = quote(api) + (f"?{incoming.query}" if incoming.query else "")
        answer = self.pass_on(replace(incoming, target=target, headers=headers))
        if answer.status != 200:
            return answer
        if api.endswith("/runs/create"):
            content["run_id"] = json.loads(answer.body)["run"]["info"]["run_id"]
        self._remember(api, content, sent)
        return self._with_artifact_addresses(answer)

    def _over_limits(self, run_id: str, sent: _Sent) -> Answer | None:
        with self._state:
            known = self._names.get(run_id, _RunNames())
            params, tags = len(known.params | sent.params.keys()), len(known.tags | sent.tags.keys())
        limits = self.limits
        sizes = [("Parameters", limits.params, params), ("Tags", limits.tags, tags)]
        sizes += [("MetricV2Dto.Value/Count", limits.batch_metrics, sent.metrics)]
        sizes += [("Parameters/Value", limits.param_value, len(value)) for value in sent.params.values()]
        sizes += [("Tags/Key", limits.tag_key, len(key)) for key in sent.tags]
        sizes += [("Tags/Value", limits.tag_value, len(value)) for value in sent.tags.values()]
        for name, limit, size in sizes:
            if size > limit:
                message = f"A field of the entity is over the size limit. FieldName={name}, Limit={limit}, Size={size}."
                see = "See https://aka.ms/azure-machine-learning-limits for service limits documentation."
                return self.error(400, "ValidationError", f"{message} {see}")
        return None

    def _remember(self, api: str, content: Mapping[str, Any], sent: _Sent) -> None:
        with self._state:
            known = self._names.setdefault(content.get("run_id", ""), _RunNames())
            known.params |= sent.params.keys()
            known.tags |= sent.tags.keys()
            if api.endswith("/runs/delete-tag"):
                known.tags.discard(content["key"])

    def _with_artifact_addresses(self, answer: Answer) -> Answer:
        """Return the same answer, with addresses of artifacts in Azure."""
        if b'"artifact_uri"' not in answer.body:
            return answer
        content = json.loads(answer.body)
        for run in [content["run"]] if "run" in content else content.get("runs", []):
            info = run["info"]
            info["artifact_uri"] = (
                f"azureml://{HOST}:{self.port}/mlflow/v2.0{self.scope}"
                f"/experiments/{info['experiment_id']}/runs/{info['run_id']}/artifacts"
            )
        return Answer.of(200, content)

    # Artifacts: first a name is reserved, then a blob is sent to the address that this gives

    def _reserve(self, incoming: Incoming, parts: Mapping[str, str]) -> Answer:
        addresses, conflicts = {}, {}
        for path in (item["path"] for item in json.loads(incoming.body)["paths"]):
            name = _blob_name(parts, path)
            with self._state:
                taken = name in self._reserved
                self._reserved.add(name)
            if taken:
                message = f"Resource Conflict: ArtifactId ExperimentRun/{parts['run']}/{path} already exists."
                conflicts[path] = {"error": {"code": "UserError", "message": message}}
            else:
                addresses[path] = self._content_information(parts, path, "rw")
        return Answer.of(200, {"artifacts": {}, "artifactContentInformation": addresses, "errors": conflicts})

    def _content(self, incoming: Incoming, parts: Mapping[str, str]) -> Answer:
        path = parse_qs(incoming.query).get("path", [""])[0]
        if _blob_name(parts, path) not in self._reserved:
            return self.error(404, "UserError", f"ArtifactId ExperimentRun/{parts['run']}/{path} was not found.")
        return Answer.of(200, self._content_information(parts, path, "r"))

    def _content_information(self, parts: Mapping[str, str], path: str, permissions: str) -> dict[str, str]:
        address = f"{self.url}/{_STORAGE}/azureml/{quote(_blob_name(parts, path))}"
        signed = f"{address}?sv=2023-01-03&sp={permissions}&sig={self._signature}"
        return {"contentUri": signed, "origin": "ExperimentRun", "container": parts["run"], "path": path}

    def _artifacts(self, incoming: Incoming, parts: Mapping[str, str]) -> Answer:
        prefix = _blob_name(parts, "")
        with self._state:
            paths = sorted(name.removeprefix(prefix) for name in self._reserved if name.startswith(prefix))
        run = parts["run"]
        artifacts = [
            {"artifactId": f"ExperimentRun/{run}/{path}", "origin": "ExperimentRun", "container": run, "path": path}
            for path in paths
        ]
        return Answer.of(200, {"value": artifacts})

    def _blob(self, incoming: Incoming) -> Answer:
        query = dict(parse_qsl(incoming.query))
        if query.get("sig") != self._signature:
            return _storage_error(403, "AuthenticationFailed", "Server failed to authenticate the request.")
        name = incoming.path.removeprefix(f"/{_STORAGE}/azureml/")
        run, experiment, path = name.removeprefix("ExperimentRun/").split("/", 2)
        target = f"/api/2.0/mlflow-artifacts/artifacts/{experiment}/{run}/artifacts/{quote(path)}"
        passed = replace(incoming, target=target, headers={})
        if incoming.method == "GET":
            return _part(self.pass_on(passed), incoming.headers)
        if "comp" in query or incoming.method != "PUT":
            return _storage_error(501, "NotImplemented", "This storage takes a blob in one piece (up to 64 MB) only.")
        if "w" not in query.get("sp", ""):
            return _storage_error(403, "AuthorizationPermissionMismatch", "The signature does not permit to write.")
        return self._put_blob(name, passed)

    def _put_blob(self, name: str, passed: Incoming) -> Answer:
        if name in self._blobs:
            return _storage_error(409, "BlobAlreadyExists", "The specified blob already exists.")
        answer = self.pass_on(passed)
        if answer.status != 200:
            return _storage_error(503, "ServerBusy", "The server is busy.")
        self._blobs.add(name)
        headers = {"ETag": '"1"', "Last-Modified": formatdate(usegmt=True), "x-ms-version": "2023-01-03"}
        return Answer(201, b"", headers | {"x-ms-request-server-encrypted": "true"})

    _open_routes: tuple[tuple[str, Callable[[AzureFront, Incoming], Answer]], ...] = (
        (r"/[^/]+/\.well-known/openid-configuration", _sign_in_endpoints),
        (r"/[^/]+/oauth2/token", _token),
        (r"/msi/token", _machine_token),
        (rf"/{re.escape(_STORAGE)}/azureml/.+", _blob),
    )

    _SCOPE = (
        r"(?P<scope>/subscriptions/[^/]+/resourceGroups/[^/]+/providers"
        r"/Microsoft\.MachineLearningServices/workspaces/[^/]+)"
    )
    _RUN = r"/experiment(?:ids|s)/(?P<experiment>[^/]+)/runs/(?P<run>[^/]+)"

    _routes: tuple[tuple[str, Callable[[AzureFront, Incoming, Mapping[str, str]], Answer]], ...] = (
        (_SCOPE, _workspace),
        (rf"/mlflow/v[12]\.0{_SCOPE}(?P<api>/.+)", _tracking),
        (rf"/history/v1\.0{_SCOPE}{_RUN}/artifacts/batch/metadata", _reserve),
        (rf"/history/v1\.0{_SCOPE}{_RUN}/artifacts/contentinfo", _content),
        (rf"/history/v1\.0{_SCOPE}{_RUN}/artifacts", _artifacts),
        (rf"/history/v1\.0{_SCOPE}{_RUN}/token", _run_token),
    )


def _refused_sign_in(status: int, error: str, number: int, message: str) -> Answer:
    description = f"AADSTS{number}: {message}"
    return Answer.of(status, {"error": error, "error_description": description, "error_codes": [number]})


def _blob_name(parts: Mapping[str, str], path: str) -> str:
    return f"ExperimentRun/{parts['run']}/{parts['experiment']}/{path}"


def _storage_error(status: int, code: str, message: str) -> Answer:
    body = f'<?xml version="1.0" encoding="utf-8"?><Error><Code>{code}</Code><Message>{message}</Message></Error>'
    return Answer(status, body.encode(), {"Content-Type": "application/xml", "x-ms-error-code": code})


def _part(answer: Answer, headers: Mapping[str, str]) -> Answer:
    """Return the range of a blob that a request asks for."""
    if answer.status != 200:
        return _storage_error(404, "BlobNotFound", "The specified blob does not exist.")
    blob = answer.body
    about = {"ETag": '"1"', "Last-Modified": formatdate(usegmt=True), "x-ms-blob-type": "BlockBlob"}
    asked = re.search(r"bytes=(\d+)-(\d*)", " ".join(headers.get(name, "") for name in ("Range", "x-ms-range")))
    if asked is None:
        return Answer(200, blob, about)
    start, stop = int(asked[1]), min(int(asked[2] or len(blob)) + 1, len(blob))
    if start >= len(blob):
        return _storage_error(416, "InvalidRange", "The range specified is invalid for the current size.")
    return Answer(206, blob[start:stop], about | {"Content-Range": f"bytes {start}-{stop - 1}/{len(blob)}"})
