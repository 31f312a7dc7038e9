"""Failures of calls to a server: what each means for the sender, and one line about it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from anemoi_house.errors import HouseError
from anemoi_house.tracking.redact import Redactor

LONGEST_REASON = 300


class ServerError(HouseError):
    """A call to a server failed."""


class UnavailableError(ServerError):
    """It may succeed later.

    Parameters
    ----------
    message : str
    attempts : int
        Failures in a row after which somebody who waits should give up; 1 for what only a person can fix.
    own : bool
        Whether the server itself says that it failed, which may be because of what it was sent.
    """

    def __init__(self, message: str, attempts: int = 3, own: bool = False) -> None:
        super().__init__(message)
        self.attempts, self.own = attempts, own


class RefusedError(ServerError):
    """It will never succeed: the server rejects the request itself.

    Parameters
    ----------
    message : str
    suspected : bool
        Whether the server only failed at it, while it takes something else.
    """

    def __init__(self, message: str, suspected: bool = False) -> None:
        super().__init__(message)
        self.suspected = suspected


class ExistsError(ServerError):
    """An artifact of that name exists, and the server does not overwrite it."""


class GoneError(ServerError):
    """The run, or its experiment, was deleted on the server."""


_STATUS = re.compile(r"too many (\d{3}) error responses|error code (\d{3})|\b(\d{3}) (?:Client|Server) Error")
_CONNECTION_ERRORS = {"ConnectionError", "ServiceRequestError", "ServiceResponseError", "MaxRetryError", "HTTPError"}
_REFUSALS = {"INVALID_PARAMETER_VALUE", "BAD_REQUEST", "RESOURCE_ALREADY_EXISTS", "RESOURCE_LIMIT_EXCEEDED"}
_CODES = {
    "UNAUTHENTICATED": 401,
    "CUSTOMER_UNAUTHORIZED": 401,
    "PERMISSION_DENIED": 403,
    "RESOURCE_DOES_NOT_EXIST": 404,
    "NOT_FOUND": 404,
    "ENDPOINT_NOT_FOUND": 404,
    "REQUEST_LIMIT_EXCEEDED": 429,
    "RESOURCE_EXHAUSTED": 429,
    "INTERNAL_ERROR": 500,
    "TEMPORARILY_UNAVAILABLE": 503,
    "DEADLINE_EXCEEDED": 504,
}


def explain(failure: Exception, name: str, host: str, marks: Sequence[str] = ("error_code",)) -> ServerError:
    """Return the error by which the sender decides what to do about a failure; its message has one line.

    Parameters
    ----------
    failure : Exception
        As MLflow, requests, SQLAlchemy or the Azure libraries raise it.
    name, host : str
        Of the server.
    marks : sequence of str
        Keys by which an answer is known to be the server's own, and not that of a proxy or a firewall.

    Returns
    -------
    ServerError
    """
    chain = failures(failure)
    if (known := next((one for one in chain if isinstance(one, ServerError)), None)) is not None:
        return known
    texts = " ".join(str(one) for one in chain)
    status, code = _status(chain, texts), str(getattr(failure, "error_code", ""))
    if (found := re.search(r"host='([^']+)', port=(\d+)", texts)) is not None:
        # The call may need another host, to sign in for example.
        host = found[1] if found[2] in ("80", "443") else f"{found[1]}:{found[2]}"
    if "certificate verify failed" in texts.lower():
        why = re.search(r"certificate verify failed: ([^()\[\]]+)", texts)
        return UnavailableError(
            f"the certificate of {host} cannot be verified{f' ({why[1].strip()})' if why else ''}; "
            "set REQUESTS_CA_BUNDLE to the file of its certificate authority",
            1,
        )
    if "out-of-date database schema" in texts:
        return UnavailableError(
            f"{name}: an older MLflow has made this database. Make a copy of it, then run: mlflow db upgrade {name}", 1
        )
    if "database is locked" in texts:
        return UnavailableError(f"{name} is locked by another process")
    if re.search(r"timed? ?out", texts, re.IGNORECASE) and status is None:
        return UnavailableError(f"{host} does not answer")
    if status in (401, 403):
        what = "sign-in refused" if status == 401 else "access denied"
        return UnavailableError(f"{what} by {host} ({status}); check the credentials for this server", 1)
    if status == 429:
        return UnavailableError(f"{host} receives too many requests (429)", 6)
    own = any(mark in body for body in map(_body, chain) for mark in marks)
    if status is not None and status >= 500:
        coded = len(chain) == 1 and code in _CODES and not _STATUS.search(texts)  # no answer had this status
        said = f"{code}: {one_line(_message(failure))}" if coded else status
        return UnavailableError(f"{host} fails ({said})", 6, own)
    if status is None and any(_is_connection(one) for one in chain):
        return UnavailableError(f"cannot connect to {host}{reason_of_network(texts)}")
    if status == 413:
        return RefusedError(f"too large for {host} (413)")
    if (status == 400 or code in _REFUSALS) and (own or status is None):  # without a status, the client says so
        return RefusedError(one_line(_message(failure)))
    if status is not None and status != 404:
        return UnavailableError(f"something before {host} answers ({status}): {one_line(_message(failure), 150)}")
    if status == 404:
        return UnavailableError(f"{host} does not have it (404): {one_line(_message(failure))}", 1)
    return UnavailableError(f"{name}: {one_line(_message(failure))}")


def failures(failure: BaseException | None) -> list[BaseException]:
    """Return a failure and its causes."""
    chain: list[BaseException] = []
    while failure is not None and failure not in chain:
        chain.append(failure)
        failure = failure.__cause__ or failure.__context__ or getattr(failure, "inner_exception", None)
    return chain


def _status(chain: Sequence[BaseException], texts: str) -> int | None:
    """Return the HTTP status behind a failure."""
    for one in chain:
        response = getattr(one, "response", None)
        status = getattr(one, "status_code", None) or getattr(response, "status_code", None)
        if isinstance(status, int):
            return status
    if found := _STATUS.search(texts):
        return int(next(filter(None, found.groups())))
    if (body := _body(chain[0])) and "error_code" not in body:
        return _status_of_azure(body)
    # With a cause it is no answer: MLflow's own checks use the same codes.
    return _CODES.get(getattr(chain[0], "error_code", "")) if len(chain) == 1 else None


def _body(failure: BaseException) -> dict[str, Any]:
    """Return the JSON object with which a server answered; an empty one if it answered otherwise."""
    body = getattr(failure, "json", None)
    if not isinstance(body, dict):
        with suppress(Exception):  # what is no JSON fails in as many ways as there are libraries
            body = failure.response.json()  # type: ignore[attr-defined]
    return body if isinstance(body, dict) else {}


def _status_of_azure(body: dict[str, Any]) -> int:
    """Return the status of an answer of Azure, of which MLflow keeps only the text."""
    with suppress(KeyError, TypeError, ValueError):
        return int(body["statusCode"] if "statusCode" in body else body["error"]["statusCode"])
    text = str(body).lower()
    for words, status in (
        (("bearer", "unauthorized", "invalidauthenticationtoken", "expired", "unauthenticated"), 401),
        (("authorizationfailed", "forbidden", "authorizationerror", "does not have authorization"), 403),
        (("toomanyrequests", "throttl"), 429),
        (("notfound", "not found"), 404),
        (("validationerror", "badargument", "badrequest", "size limit"), 400),
    ):
        if any(word in text for word in words):
            return status
    return 500


def _is_connection(failure: BaseException) -> bool:
    return any(kind.__name__ in _CONNECTION_ERRORS for kind in type(failure).__mro__)


def reason_of_network(texts: str) -> str:
    """Return the known reason in an error of the network, in brackets; else an empty text."""
    for words in ("Connection refused", "Connection reset", "Name or service not known", "No route to host",
                  "Network is unreachable", "Temporary failure in name resolution",
                  "Remote end closed connection"):  # fmt: skip
        if words.lower() in texts.lower():
            return f" ({words[0].lower()}{words[1:]})"
    return ""


def _message(failure: BaseException) -> str:
    text = str(getattr(failure, "message", None) or failure) or type(failure).__name__
    return re.sub(r"^[A-Z_]{5,}: (Response: )?", "", text)


def problem(failure: Exception) -> str:
    """Return what went wrong in one line, whatever the failure is."""
    if isinstance(failure, HouseError):
        return str(failure)
    if isinstance(failure, OSError) and failure.filename:
        return f"{failure.filename}: {failure.strerror}"
    return one_line(f"{type(failure).__name__}: {failure}")


def one_line(text: str, longest: int = LONGEST_REASON) -> str:
    """Return a text in one line, shortened and without secrets."""
    line = " ".join(Redactor().text(text).split())
    return line if len(line) <= longest else f"{line[:longest]}..."
