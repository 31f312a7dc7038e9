"""Errors that a user can mend: one message that names the key, the value and the way out."""

from __future__ import annotations


class HouseError(Exception):
    """A user's mistake.

    The message is complete in itself: whoever prints it prints nothing else, no traceback.
    """
