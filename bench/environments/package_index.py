"""Where the user's pip gets packages from, and the same settings for uv, which does not read pip's.

>>> uv_environment({"find-links": ["wheels"], "index-url": ["https://me:pw@example.org/simple"]}, {})
{'UV_NATIVE_TLS': '1', 'UV_FIND_LINKS': 'wheels', 'UV_DEFAULT_INDEX': 'https://me:pw@example.org/simple'}

They go through the environment, which only its user can read: every user of the machine can list arguments.
"""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from collections.abc import Mapping

Settings = dict[str, list[str]]
"""From an option of pip, without its dashes, to its values; those of several sources add up, as in pip."""

TO_UV = {
    "find-links": ("UV_FIND_LINKS", ","),
    "index-url": ("UV_DEFAULT_INDEX", " "),
    "extra-index-url": ("UV_INDEX", " "),
    "trusted-host": ("UV_INSECURE_HOST", " "),
}
"""From an option of pip to uv's variable, and what stands between several values there."""
SINGLE = ("index-url", "cert")
"""Options for which the last source wins: pip lists files first, then the environment."""


def pip_settings() -> Settings:
    """The settings that ``pip config list`` prints, from files and environment variables; empty without pip."""
    done = subprocess.run(
        [sys.executable, "-m", "pip", "config", "list"], capture_output=True, text=True, check=False
    )
    return parse(done.stdout) if done.returncode == 0 else {}


def parse(text: str) -> Settings:
    """Lines such as ``global.find-links='a b'`` and ``:env:.cert='c'``; the environment's come last."""
    found: Settings = {}
    for line in sorted(text.splitlines(), key=lambda line: line.startswith(":env:")):
        key, equals, value = line.partition("=")
        section, _, name = key.rpartition(".")
        if not equals or section not in ("global", "install", ":env:"):
            continue
        text = _unquoted(value).strip()
        values = [text] if name in SINGLE else text.split()  # a bundle's path may have spaces
        if not text:  # pip ignores empty ones
            continue
        before = [] if name in SINGLE else found.get(name, [])
        found[name] = list(dict.fromkeys([*before, *values]))
    return found


def _unquoted(value: str) -> str:
    """What pip has put in quotes as Python does; the text itself where it has not."""
    try:
        return str(ast.literal_eval(value))
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return value


def uv_arguments(settings: Settings) -> list[str]:
    """The options of ``uv pip install`` that no variable has. Of several indexes the best match counts, as with pip."""
    alone = settings.get("no-index", ["0"])[-1].lower() in ("1", "true", "yes", "on")
    several = ["--index-strategy", "unsafe-best-match"] if "extra-index-url" in settings else []
    return [*(["--no-index"] if alone else []), *several]


def uv_environment(settings: Settings, environ: Mapping[str, str] = os.environ) -> dict[str, str]:
    """The environment variables for uv: indexes and folders of wheels, the system's certificates or pip's bundle."""
    bundle = settings.get("cert", [""])[-1]
    places = {
        name: mark.join(settings[option]) for option, (name, mark) in TO_UV.items() if option in settings
    }
    trusted = {"UV_NATIVE_TLS": "1", **({"SSL_CERT_FILE": bundle} if bundle else {})}
    return {**environ, **trusted, **places}
