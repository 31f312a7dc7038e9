"""Removes secrets from everything that a run logs, before it is written anywhere."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from typing import Any

HIDDEN = "***"
_SECRET_NAME = re.compile(
    r"secret|passw(or)?d|passphrase|token|credential|api_?key|access_?key|account_?key|private_?key|connection_?string|"
    r"signature",
    re.IGNORECASE,
)
_SHORTEST = 6
"""Shorter values of variables named like a secret (`true`, a number) are not secrets, and occur in any text."""
_PATTERNS = (
    (re.compile(r"(\w://)[^/@\s'\"]*:[^/@\s'\"]*@"), rf"\1{HIDDEN}@"),  # user:password in an address
    (re.compile(r"\b(Bearer|Basic)\s+[\w.~+/=-]{8,}", re.IGNORECASE), rf"\1 {HIDDEN}"),
    (re.compile(r"\beyJ[\w-]{8,}\.[\w-]+\.[\w-]*"), HIDDEN),  # a JSON web token
    (
        re.compile(r"([?&;](?:sig|signature|token|access_token|se?cret|key)=)[^&\s'\"<>]+", re.IGNORECASE),
        rf"\1{HIDDEN}",
    ),
    (re.compile(r"((?:AccountKey|SharedAccessKey|SharedAccessSignature)=)[^;\s'\"]+", re.IGNORECASE), rf"\1{HIDDEN}"),
)


class Redactor:
    """Removes secrets from texts and settings.

    Parameters
    ----------
    environ : mapping
        Variables; the values of those named like a secret are hidden. By default those of the process.
    """

    def __init__(self, environ: Mapping[str, str] | None = None) -> None:
        environ = os.environ if environ is None else environ
        values = {
            value
            for name, value in environ.items()
            if _SECRET_NAME.search(name) and len(value) >= _SHORTEST and not os.path.exists(value)
        }
        # Longest first: one secret may be the beginning of another.
        alternatives = "|".join(re.escape(value) for value in sorted(values, key=len, reverse=True))
        self._values = re.compile(alternatives) if alternatives else None

    def text(self, text: str) -> str:
        """Return a text without secrets."""
        if self._values is not None:
            text = self._values.sub(HIDDEN, text)
        for pattern, instead in _PATTERNS:
            text = pattern.sub(instead, text)
        return text

    def settings(self, settings: Any) -> Any:
        """Return nested settings without secrets; values whose key is named like a secret are hidden too."""
        if isinstance(settings, Mapping):
            return {
                key: HIDDEN
                if isinstance(value, str) and len(value) >= _SHORTEST and _SECRET_NAME.search(str(key))
                else self.settings(value)
                for key, value in settings.items()
            }
        if isinstance(settings, list | tuple):
            return [self.settings(value) for value in settings]
        return self.text(settings) if isinstance(settings, str) else settings
