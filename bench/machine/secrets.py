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

WORDS = "KEY|TOKEN|SECRET|PASSW|CREDENTIAL|AUTH"
SECRET = re.compile(WORDS, re.IGNORECASE)
"""Names of variables and options whose value nobody else should see."""
USER = re.compile(r"(?<=://)[^/\s'\"]*@")
ASSIGNMENT = re.compile(rf"(?<![\w.-])(?!tokens=)(?=[\w.-]*(?:{WORDS}))([\w.-]+=)\S+", re.IGNORECASE)
"""``api_key=…`` within an argument; ``tokens=`` is the length of a prompt."""
STARS = "***"
SHORTEST = 6
"""Characters of a variable's value from which on it is looked for in a text: shorter ones stand in any text."""


def without_passwords(text: str) -> str:
    """The text with stars for the user and the password of each address in it."""
    return USER.sub(f"{STARS}@", text)


def without_secrets(text: str, environ: Mapping[str, str] = os.environ) -> str:
    """The text without passwords of addresses and without values of the environment's secrets."""
    for name, value in environ.items():
        if SECRET.search(name) and len(value) >= SHORTEST:
            text = text.replace(value, STARS)
    return without_passwords(text)


def command_line(arguments: Sequence[str], environ: Mapping[str, str] = os.environ) -> str:
    """A command as it can be stored: ``key=VALUE``, ``--api-key VALUE`` and all of `without_secrets` with stars."""
    kept = []
    for before, argument in zip(("", *arguments), arguments, strict=False):
        names_one = before.startswith("-") and "=" not in before and SECRET.search(before)
        kept.append(STARS if names_one else ASSIGNMENT.sub(rf"\g<1>{STARS}", argument))
    return shlex.join(without_secrets(argument, environ) for argument in kept)
