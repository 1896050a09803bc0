"""Commands and their output as they may be logged and stored: without what looks like a secret."""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence

HIDDEN = "***"
MAX_COMMAND = 2_000  # characters: what `slicing_attempts.command` holds
_MAX_ARGUMENT = 300

# Whole words of a name, so that `--author`, `--keep` and `--tokenizer` keep their values.
_SECRET_WORDS = frozenset(
    {"auth", "authorization", "bearer", "cookie", "credential", "credentials", "apikey", "pass", "passphrase"}
    | {"passwd", "password", "pwd", "secret", "secrets", "session", "sig", "signature"}
)
_SECRET_AT_THE_END = frozenset({"key", "token"})  # so not `token_count` or `key_file`
_ERRORS = frozenset({"error", "exception"})  # `KeyError: 'pages'` is no secret
_WORDS = re.compile(r"[a-z]+|[A-Z]+(?![a-z])|[A-Z][a-z]*")
_URL_CREDENTIALS = re.compile(r"(?<=://)[^/\s@\"']+@")
_SCHEMES = re.compile(r"\b(Bearer|Basic)\s+[^\s\"',;]+", re.IGNORECASE)
_KEY_LIKE = re.compile(r"\b(?:sk|xai|gsk|whsec|ghp|glpat|xoxb)[-_][\w*.-]{6,}|\bAIza[\w-]{6,}|\bAKIA[A-Z0-9]{12,}")
_NAME = re.compile(r"""(?<![A-Za-z0-9_])([A-Za-z][\w.-]{0,200})["']?\s*([=:])(?!//)\s*""")
_OPTION = re.compile(r"(?<![^\s\[(\"'])(--?[A-Za-z][\w-]{0,200})([\"',]*\s+[\"']?)([^\s\"',-][^\s\"',]*)")
_VALUES = {
    "=": re.compile(r"\"[^\"]*\"|'[^']*'|[\"']?[^\s\"'&,;]+"),
    ":": re.compile(r"\"[^\"]*\"|'[^']*'|[\"']?[^\n\"',]+"),  # a header's value may hold blanks
}


def redacted(command: Sequence[str]) -> str:
    """Return a command as one line of shell words, at most 2,000 characters, without secrets.

    Hidden are the values of options, variables, query parameters, headers and JSON fields whose names say that they
    are secret (`--api-key=…`, `--token …`, `DB_PASSWORD=…`), credentials in addresses, and what begins as keys do. It
    errs towards hiding; a secret that stands by itself and looks like any word is not known for one.
    """
    words: list[str] = []
    hide = False
    for argument in command:
        if hide and not (argument.startswith("-") and _is_secret(argument)) and not argument.startswith("--"):
            words.append(HIDDEN)
            hide = False
            continue
        hide = argument.startswith("-") and "=" not in argument and _is_secret(argument)
        name, sign, _ = argument.partition("=")
        whole = sign and not re.search(r"[\s:/]", name) and _is_secret(name)
        shown = f"{name}={HIDDEN}" if whole else without_secrets(argument)
        words.append(_shell_word(_cut(shown, _MAX_ARGUMENT)))
    return _cut(" ".join(words), MAX_COMMAND)


def without_secrets(text: str) -> str:
    """Return a text, such as what a program wrote, without what looks like a secret in it. See `redacted`."""
    text = _URL_CREDENTIALS.sub(f"{HIDDEN}@", text)
    text = _SCHEMES.sub(rf"\1 {HIDDEN}", text)
    text = _KEY_LIKE.sub(HIDDEN, text)
    text = _OPTION.sub(lambda found: f"{found[1]}{found[2]}{HIDDEN}" if _is_secret(found[1]) else found[0], text)
    parts, at = [], 0
    while (name := _NAME.search(text, at)) is not None:
        value = _VALUES[name[2]].match(text, name.end()) if _is_secret(name[1]) else None
        parts += [text[at : name.end()], HIDDEN if value else ""]
        at = value.end() if value else name.end()
    return "".join([*parts, text[at:]])


def _is_secret(name: str) -> bool:
    words = [word.lower() for word in _WORDS.findall(name)]
    if not words or words[-1] in _ERRORS:
        return False
    return words[-1] in _SECRET_AT_THE_END or not _SECRET_WORDS.isdisjoint(words)


def _shell_word(argument: str) -> str:
    if HIDDEN in argument and (rest := argument.replace(HIDDEN, "") or "-") == shlex.quote(rest):
        return argument  # the stars alone need no quotes: nobody runs this
    return shlex.quote(argument)


def _cut(text: str, limit: int) -> str:
    return text if len(text) <= limit else text[: limit - 1] + "…"
