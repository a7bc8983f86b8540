"""What must not be stored or printed: values of what is named like a key, and passwords within addresses.

>>> without_passwords("https://me:pw@example.org/simple")
'https://***@example.org/simple'
>>> command_line(["membound", "run", "--out", "key=s3cr3t"], {})
"membound run --out 'key=***'"
"""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Mapping, Sequence

WORDS = "KEY|TOKEN|SECRET|PASS(?:W|PHRASE)|(?<![A-Z])PASS(?![A-Z])|CREDENTIAL|AUTH|COOKIE|BEARER|(?<=[_-])PWD"
SECRET = re.compile(WORDS, re.IGNORECASE)
"""Names of variables and options whose value nobody else should see."""
USER = re.compile(r"(:/{1,2})[^/\s'\"]*@")
"""Of an address; one that was taken for a path has one stroke left."""
QUERY = re.compile(
    rf"(?<=[?&])(?!tokens=)(?=[\w.-]*(?:{WORDS}|SIGNATURE=|(?<![\w.-])SIG=))([\w.-]+=)[^&\s'\"]+",
    re.IGNORECASE,
)
"""What an address asks with, as those that are signed do: ``?token=…``, ``&X-Amz-Signature=…``, ``&sig=…``."""
HEADER = re.compile(
    r"((?:authorization|api-key|cookie)['\"]?: *['\"]?(?:(?:bearer|basic|token) +)?)[^\s'\"]+", re.IGNORECASE
)
"""Of an HTTP request, as texts of others repeat it."""
ASSIGNMENT = re.compile(rf"(?<![\w.-])(?!tokens=)(?=[\w.-]*(?:{WORDS}))([\w.-]+=)\S+", re.IGNORECASE)
"""``api_key=…`` within an argument; ``tokens=`` is the length of a prompt."""
WORD = re.compile(r"(?:'[^']*'|\"[^\"]*\"|\S)+")
"""A word of a command within an argument, with its quotes."""
STARS = "***"
SHORTEST = 6
"""Characters of a variable's value from which on it is looked for in a text: shorter ones stand in any text."""


def without_passwords(text: str) -> str:
    """The text with stars for the user and the password of each address in it, for keys that it asks with, or a header has."""
    for found in (QUERY, HEADER):
        text = found.sub(rf"\g<1>{STARS}", text)
    return USER.sub(rf"\g<1>{STARS}@", text)


def without_secrets(text: str, environ: Mapping[str, str] = os.environ) -> str:
    """The text without passwords of addresses and without values of the environment's secrets."""
    for name, value in environ.items():
        if SECRET.search(name) and len(value) >= SHORTEST:
            text = text.replace(value, STARS)
    return without_passwords(text)


def command_line(arguments: Sequence[str], environ: Mapping[str, str] = os.environ) -> str:
    """A command as it can be stored: ``key=VALUE``, ``--api-key VALUE`` and all of `without_secrets` with stars."""
    pairs = zip(("", *arguments), arguments, strict=False)
    return shlex.join(
        STARS if _asks_for_one(before) else command_text(argument, environ) for before, argument in pairs
    )


def command_text(text: str, environ: Mapping[str, str] = os.environ) -> str:
    """The same of a command that is one argument, or a line: its words stand as they were."""
    before = ""

    def starred(found: re.Match[str]) -> str:
        nonlocal before
        last, before = before, found[0]
        if _asks_for_one(last):
            return STARS
        quote, inner = found[0][:1], found[0][1:-1]
        if quote in ("'", '"') and found[0].endswith(quote) and " " in inner:  # a command within the command
            return f"{quote}{command_text(inner, environ)}{quote}"
        return ASSIGNMENT.sub(rf"\g<1>{STARS}", found[0])

    return without_secrets(WORD.sub(starred, text), environ)


def _asks_for_one(word: str) -> bool:
    """Whether it is an option whose value follows and nobody else should see."""
    return word.startswith("-") and "=" not in word and SECRET.search(word) is not None
