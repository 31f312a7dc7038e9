"""Errors that a user can fix, each with one message: the key, the value, and what to do."""

from __future__ import annotations


class HouseError(Exception):
    """A user's mistake, with a message that is printed alone, without a traceback."""


def first_line(error: BaseException) -> str:
    """Return the first line of an error's message; the name of its class if it has none."""
    message = str(error).strip()
    return message.splitlines()[0] if message else type(error).__name__
