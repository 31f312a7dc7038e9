"""Why a server did not do what it was asked to: what that means for the drain, and one line about it each."""

from __future__ import annotations

import re
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from anemoi_house.errors import HouseError
from anemoi_house.tracking.redact import Redactor

LONGEST_REASON = 300


class ServerError(HouseError):
    """A server did not do what it was asked to."""


class UnavailableError(ServerError):
    """It may do so later.

    Parameters
    ----------
    message : str
    attempts : int
        How many failures in a row are enough for somebody who waits for the result; 1 for what a person has to mend.
    """

    def __init__(self, message: str, attempts: int = 3) -> None:
        super().__init__(message)
        self.attempts = attempts


class RefusedError(ServerError):
    """It will never do so: the request is not to its liking."""


class ExistsError(ServerError):
    """There is an artifact of that name, which the server does not overwrite."""


class GoneError(ServerError):
    """The run, or its experiment, was deleted on the server."""


_STATUS = re.compile(r"too many (\d{3}) error responses|error code (\d{3})|\b(\d{3}) (?:Client|Server) Error")
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


def explain(failure: Exception, name: str, host: str) -> ServerError:
    """What a failure means for the drain, and one line about it.

    Parameters
    ----------
    failure : Exception
        As MLflow, requests, SQLAlchemy or the Azure libraries raise it.
    name, host : str
        Of the server.
    """
    chain = failures(failure)
    told = " ".join(str(one) for one in chain)
    status, code = _status(chain, told), str(getattr(failure, "error_code", ""))
    if (found := re.search(r"host='([^']+)', port=(\d+)", told)) is not None:
        # What is asked on the way, to sign in for example, may be elsewhere.
        host = found[1] if found[2] in ("80", "443") else f"{found[1]}:{found[2]}"
    if "certificate verify failed" in told.lower():
        why = re.search(r"certificate verify failed: ([^()\[\]]+)", told)
        return UnavailableError(
            f"the certificate of {host} does not verify{f' ({why[1].strip()})' if why else ''}; "
            "name the file of its authority in REQUESTS_CA_BUNDLE",
            1,
        )
    if "database is locked" in told:
        return UnavailableError(f"{name} is locked by another process")
    if re.search(r"timed? ?out", told, re.IGNORECASE) and status is None:
        return UnavailableError(f"{host} does not answer")
    if status in (401, 403):
        what = "sign-in refused" if status == 401 else "access denied"
        return UnavailableError(f"{what} by {host} ({status}); check the credentials for this server", 1)
    if status == 429:
        return UnavailableError(f"{host} has too many requests (429)", 6)
    if status is not None and status >= 500:
        return UnavailableError(f"{host} fails ({status})", 6)
    if status is None and any(_is_connection(one) for one in chain):
        return UnavailableError(f"cannot connect to {host}{reason_of_network(told)}")
    if status == 400 or code in _REFUSALS:
        return RefusedError(one_line(_message(failure)))
    if status == 404:
        return UnavailableError(f"{host} has no such thing (404): {one_line(_message(failure))}", 1)
    return UnavailableError(f"{name}: {one_line(_message(failure))}")


def failures(failure: BaseException | None) -> list[BaseException]:
    """A failure and those that it came from."""
    chain: list[BaseException] = []
    while failure is not None and failure not in chain:
        chain.append(failure)
        failure = failure.__cause__ or failure.__context__ or getattr(failure, "inner_exception", None)
    return chain


def _status(chain: Sequence[BaseException], told: str) -> int | None:
    """HTTP status that a failure goes back to."""
    for one in chain:
        response = getattr(one, "response", None)
        status = getattr(one, "status_code", None) or getattr(response, "status_code", None)
        if isinstance(status, int):
            return status
    if found := _STATUS.search(told):
        return int(next(filter(None, found.groups())))
    body = getattr(chain[0], "json", None)
    if isinstance(body, dict) and "error_code" not in body:
        return _status_of_azure(body)
    # Only what came over a connection has a status: MLflow's own checks use the same codes.
    return _CODES.get(getattr(chain[0], "error_code", "")) if len(chain) == 1 else None


def _status_of_azure(body: dict[str, Any]) -> int:
    """Status of an answer of Azure, of which MLflow keeps the text alone."""
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
    names = {kind.__name__ for kind in type(failure).__mro__}
    return bool(
        names & {"ConnectionError", "ServiceRequestError", "ServiceResponseError", "MaxRetryError", "HTTPError"}
    )


def reason_of_network(told: str) -> str:
    """What the network said, in brackets; empty where it is nothing known."""
    for words in ("Connection refused", "Connection reset", "Name or service not known", "No route to host",
                  "Network is unreachable", "Temporary failure in name resolution",
                  "Remote end closed connection"):  # fmt: skip
        if words.lower() in told.lower():
            return f" ({words[0].lower()}{words[1:]})"
    return ""


def _message(failure: BaseException) -> str:
    text = str(getattr(failure, "message", None) or failure) or type(failure).__name__
    return re.sub(r"^[A-Z_]{5,}: (Response: )?", "", text)


def one_line(text: str, longest: int = LONGEST_REASON) -> str:
    """The text in one line, not too long, without secrets."""
    line = " ".join(Redactor().text(text).split())
    return line if len(line) <= longest else f"{line[:longest]}..."
