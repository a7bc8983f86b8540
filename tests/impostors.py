"""Interpreters that stand in for a worker: each does what its test has it do, within milliseconds of its start.

>>> python = impostor(tmp_path, "hello(); reply('Done', number=next(commands())['number'])")
>>> with Worker(threads=1, python=python) as worker: ...
"""

from __future__ import annotations

import sys
from pathlib import Path
from textwrap import dedent

from membound.bench.protocol.messages import PROTOCOL

PRELUDE = f"""#!{sys.executable} -S
import json, os, signal, sys

def write(text):
    text = memoryview(text if isinstance(text, bytes) else text.encode())
    while text:
        text = text[os.write(1, text):]

def reply(message, number, **fields):
    write(json.dumps(dict(message=message, number=number, **fields)) + "\\n")

def hello(protocol={PROTOCOL}):
    reply("Hello", 0, python="3", protocol=protocol)

def commands():
    for line in sys.stdin:
        yield json.loads(line)

"""
"""`commands()` are those of the harness as they come; `reply` answers one, `write` writes anything else."""


def impostor(folder: Path, body: str, name: str = "python") -> str:
    """The path of an interpreter that does `body`, whatever module it is asked to run."""
    return _executable(folder / name, PRELUDE + dedent(body) + "\n")


def shell(folder: Path, *lines: str, name: str = "python") -> str:
    """The same of lines for the shell, which starts faster still."""
    return _executable(folder / name, "\n".join(("#!/bin/sh", *lines, "")))


HELLO = f"""echo '{{"message":"Hello","number":0,"python":"3","protocol":{PROTOCOL}}}'"""
"""The greeting of a worker that is a shell."""


def _executable(path: Path, text: str) -> str:
    path.write_text(text)
    path.chmod(0o755)
    return str(path)
