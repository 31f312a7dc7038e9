"""Removes secrets from everything that a run logs, before it is written anywhere.

A value is a secret by its name (`..._KEY=`, `password:`), by its shape (the user of an address, a signature, a token of
a known service), or because a variable whose name is that of a secret has it.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from functools import lru_cache
from typing import Any, BinaryIO
from urllib.parse import quote

HIDDEN = "***"
_SHORTEST = 6
"""Shorter values of variables occur in any text."""
_BLOCK_BYTES = 2**20

_WORD = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+")
_SURE = re.compile(
    r".*(password|passwd|passphrase|passcode|secret|credential|(api|access|secret|private|account|shared)key)s?"
    r"|(ssh|my|pg)?pass|.*pwd|authorization|jwt"
)
"""A word that names a secret; one after it must not say that only something about it is meant."""
_ABOUT = re.compile(
    r"names?|files?|path|dir|folder|url|uri|host|endpoint|provider|manager|store|vault|version|type|format|length|size|"
    r"count|dim|policy|timeout|expiry|expires|lifetime|enabled|required|scope|through|loss"
)
_LIKELY = re.compile(r"pat|sas")
"""These are secrets at the end of a longer name."""
_AT_RANDOM = re.compile(r"key|pat|sas|auth|cookie|signature|sig|code|bearer")
"""Of these names, a value that looks like a random one is a secret."""
_KEYS_TO = re.compile(
    r"access|account|admin|api|app|auth|aws|azure|client|consumer|crypto|decryption|deploy|encryption|hmac|host|license|"
    r"master|primary|private|secondary|secret|service|shared|signing|ssh|storage|subscription|tls|user|wandb"
)
"""Words before `key` in settings; other keys are those of tables (`sort_key`)."""
_OTHERS = re.compile(
    r"pad|eos|bos|cls|class|mask|unk|sep|special|num|n|max|min|per|forward|backward|first|low|high|band"
)
"""Words before the tokens of a text, and before the passes of a method or a filter."""
_QUALIFIERS = re.compile(r"value|prod|dev|test|staging|new|old|raw|base|b|hex|plain|text|string|default|backup|id")
_NO_VALUES = re.compile(r"true|false|none|null|yes|no|", re.IGNORECASE)
_REFERENCE = re.compile(r"\$\{?[\w.:]+\}?|\$\{\{[^}]*\}\}")
"""`$NAME` or `${oc.env:NAME}`: not yet replaced by its value."""
_RANDOM = re.compile(r"(?=[\w+/=.~!-]*[a-zA-Z])(?=[\w+/=.~!-]*\d)[\w+/=.~!%-]{12,}")

_NAME = r"(?<![\w.\-])-{0,2}(?P<name>[A-Za-z_][\w.\-]{0,99})"
_NAMED = re.compile(rf"{_NAME}\\?[\"']?[ \t]*(?:=|:(?=[ \t\"'\[]))[ \t]*[\[(]?")
_OPTION = re.compile(r"(?<![\w.\-])--(?P<name>[A-Za-z][\w.\-]{0,99})[ \t]+(?!-)")
_IN_BRACES = re.compile(r"(?<=[{,])[ \t]*(?P<name>[A-Za-z_][\w.\-]{0,99}):")
"""As in Hydra's overrides: `{user:me,password:...}`."""
_QUOTED = r"[bruf]{0,2}\"(?P<double>(?:[^\"\\\n]|\\.)*)\"|[bruf]{0,2}'(?P<single>(?:[^'\\\n]|\\.)*)'"
_PLAIN = r"(?:[^\s\"'<>&;,}\])]|[&;](?![\w.%-]+=)|[,}\])](?![\s,}\])]|$))+"
_VALUE = re.compile(rf"{_QUOTED}|(?P<plain>{_PLAIN})", re.MULTILINE)
_LINE = re.compile(
    r"^(?P<is>[ \t]{0,99}(?:[-+][ \t])?(?P<name>[A-Za-z_][\w.\-]{0,99}):[ \t]+)(?P<value>[^\s\"'|>{\[].*)$",
    re.MULTILINE,
)
_USER = rf"\1{HIDDEN}@"
_SHAPES = (
    (re.compile(r"(\w://)[^/\s:@'\"<>]{0,99}:[^\s'\"<>]{0,300}@"), _USER),
    # The user of an address, of which the password may have slashes; the containers of Azure's storage are no users.
    (re.compile(r"(?<![\w+.-])((?!abfss?:|wasbs?:|(?:git\+)?ssh:|sftp:)[\w+.-]{1,20}://)[^/\s'\"<>]+@"), _USER),
    (re.compile(r"(-----BEGIN [A-Z ]*PRIVATE KEY-----).*?(-----END|\Z)", re.DOTALL), rf"\1{HIDDEN}\2"),
    (re.compile(r"^[ \t]*(?=\S*[a-z])(?=\S*[A-Z])(?=\S*[+/\d])[A-Za-z0-9+/]{64}[ \t]*$", re.MULTILINE), HIDDEN),
    (re.compile(r"\b(Bearer|Basic|Token)\s+[\w.~+/=-]{16,}", re.IGNORECASE), rf"\1 {HIDDEN}"),
    (re.compile(r"\b(Bearer|Basic)\s+(?=\S*\d)[\w.~+/=-]{8,}", re.IGNORECASE), rf"\1 {HIDDEN}"),
    (re.compile(r"([?&;#](?:sig|signature|token|secret|key|code|pass)=)[^&\s'\"<>]+", re.IGNORECASE), rf"\1{HIDDEN}"),
    (re.compile(r"(\slogin\s+\S+\s+password\s+)\S+"), rf"\1{HIDDEN}"),  # .netrc
    (re.compile(r"((?<!\S)(?:-u|--user|--proxy-user)[ =][\"']?[^\s:]+:)[^\s\"']+"), rf"\1{HIDDEN}"),  # curl
    (re.compile(r"(hooks\.slack\.com/services/)[\w/]+"), rf"\1{HIDDEN}"),
    (
        re.compile(
            r"\b(?:eyJ[\w-]{8,}\.[\w-]+\.[\w-]*"  # a JSON web token
            r"|gh[pousr]_\w{20,}|github_pat_\w{20,}|glpat-[\w-]{16,}|xox[abprs]-[\w-]{10,}|(?:AKIA|ASIA)[0-9A-Z]{16}"
            r"|sk-[\w-]{20,}|hf_[A-Za-z0-9]{20,}|AIza[\w-]{30,}|dapi[0-9a-f]{32}|pypi-[\w-]{16,}|npm_\w{30,}"
            r"|SG\.[\w-]{16,}\.[\w-]{16,}|hv[sb]\.[\w-]{20,}|\w{3}8Q~[\w.~-]{30,}|[A-Za-z0-9+/]{86}==)"
        ),
        HIDDEN,
    ),
)  # fmt: skip


@lru_cache(maxsize=4096)
def _kind(name: str) -> str:
    """Return whether values of a name are `sure` to be secrets, are if they look `random`, or are not: ``."""
    words = [word.lower() for word in _WORD.findall(name)]
    if not words or _ABOUT.fullmatch(words[-1]):
        return ""
    if (any(map(_SURE.fullmatch, words[:-1])) and "pass" not in words[:-1]) or words[-2:] == ["connection", "string"]:
        return "sure"
    while len(words) > 1 and _QUALIFIERS.fullmatch(words[-1]):
        words.pop()
    last, before = words[-1], words[-2] if len(words) > 1 else ""
    if _OTHERS.fullmatch(before) or name.lower() in ("pwd", "oldpwd"):
        return ""
    if _SURE.fullmatch(last):
        return "sure" if last != "pass" or before else "random"
    if last.endswith("token"):
        return "likely"
    if before and (_LIKELY.fullmatch(last) or (last == "key" and (name.isupper() or _KEYS_TO.fullmatch(before)))):
        return "likely"
    return "random" if _AT_RANDOM.fullmatch(last) else ""


def is_secret(name: str, value: str, prose: bool = False) -> bool:
    """Return whether a value is a secret by its name.

    Parameters
    ----------
    name, value : str
    prose : bool
        Whether they stand in a text as `name: value`, as other words do.
    """
    kind = _kind(name)
    if not kind or _NO_VALUES.fullmatch(value) or HIDDEN in value or _REFERENCE.fullmatch(value):
        return False
    if kind == "sure":
        return True
    if kind == "likely" and not prose:
        return len(value) >= _SHORTEST and not value.isdecimal()
    return bool(_RANDOM.fullmatch(value))


class Redactor:
    """Removes secrets from texts, settings, commands and files.

    Parameters
    ----------
    environ : mapping
        Variables; the values of those named like a secret are hidden. By default those of the process.
    """

    def __init__(self, environ: Mapping[str, str] | None = None) -> None:
        values = {form for value in _secrets_of(os.environ if environ is None else environ) for form in _forms(value)}
        # Longest first: one secret may be the beginning of another.
        alternatives = "|".join(re.escape(value) for value in sorted(values, key=len, reverse=True))
        self._values = re.compile(alternatives) if alternatives else None

    def text(self, text: str) -> str:
        """Return a text without secrets."""
        if self._values is not None:
            text = self._values.sub(HIDDEN, text)
        for pattern, instead in _SHAPES:
            text = pattern.sub(instead, text)
        text = _LINE.sub(_without_line, text)
        for pattern in (_NAMED, _IN_BRACES, _OPTION):
            text = _without_values(pattern, text)
        return text

    def settings(self, settings: Any, name: str = "") -> Any:
        """Return nested settings without secrets, also those that only their names tell."""
        if isinstance(settings, Mapping):
            return {key: self.settings(value, f"{name}.{key}" if name else str(key)) for key, value in settings.items()}
        if isinstance(settings, list | tuple):
            return [self.settings(value, name) for value in settings]
        if isinstance(settings, int) and not isinstance(settings, bool):
            return HIDDEN if _kind(name) == "sure" and abs(settings) >= 10**_SHORTEST // 10 else settings
        if not isinstance(settings, str):
            return settings
        return HIDDEN if is_secret(name, settings) else self.text(settings)

    def command(self, arguments: Iterable[str]) -> list[str]:
        """Return the arguments of a command without secrets: `my.password=...`, or what follows `--password`."""
        clean, option = [], ""
        for argument in arguments:
            name, equals, value = argument.partition("=")
            if option and is_secret(option, argument):
                clean.append(HIDDEN)
            elif equals and is_secret(name, value.strip("'\"")):
                clean.append(f"{name}={HIDDEN}")
            else:
                clean.append(self.text(argument))
            option = argument if argument.startswith("-") and not equals else ""
        return clean

    def pieces(self, source: BinaryIO) -> Iterator[bytes]:
        """Yield the content of a file, without secrets if it is a text, whatever its suffix."""
        block = source.readlines(_BLOCK_BYTES)
        binary = b"\0" in b"".join(block)[:_BLOCK_BYTES]
        while block and not binary:
            yield self.text(b"".join(block).decode(errors="surrogateescape")).encode(errors="surrogateescape")
            block = source.readlines(_BLOCK_BYTES)
        yield from block
        while binary and (piece := source.read(_BLOCK_BYTES)):
            yield piece


def _secrets_of(environ: Mapping[str, str]) -> Iterator[str]:
    for name, value in environ.items():
        number_or_word = len(value) < 2 * _SHORTEST and (value.isdecimal() or (value.isalpha() and value.islower()))
        common = number_or_word and _kind(name) != "sure"
        if len(value) >= _SHORTEST and not common and is_secret(name, value) and not os.path.exists(value):
            yield value


def _forms(value: str) -> Iterator[str]:
    """Yield a value as it may stand in texts: in an address, in JSON, or line by line."""
    yield from (value, quote(value, safe=""), json.dumps(value)[1:-1], json.dumps(value, ensure_ascii=False)[1:-1])
    yield from (line for line in value.splitlines() if len(line) >= 2 * _SHORTEST)


def _without_line(found: re.Match[str]) -> str:
    hidden = _kind(found["name"]) == "sure" and is_secret(found["name"], found["value"])
    return f"{found['is']}{HIDDEN}" if hidden else found[0]


def _without_values(pattern: re.Pattern[str], text: str) -> str:
    """Return a text without the secrets after the names that a pattern finds."""
    parts, at = [], 0
    for found in pattern.finditer(text):
        value = _VALUE.match(text, found.end()) if found.start() >= at and _kind(found["name"]) else None
        # The pattern ends before the value, which may hold another name.
        group = (value and value.lastgroup) or "plain"
        if value and is_secret(found["name"], value[group], prose=":" in found[0] and group == "plain"):
            parts += [text[at : value.start(group)], HIDDEN]
            at = value.end(group)
    return "".join([*parts, text[at:]])
