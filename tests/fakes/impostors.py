"""Interpreters that stand in for a worker: each does what its test has it do, within milliseconds of its start.

>>> python = impostor(tmp_path, "hello(); reply('Done', number=next(commands())['number'])")
>>> with Worker(threads=1, python=python) as worker: ...
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from textwrap import dedent

from membound.bench.protocol.messages import (
    PROTOCOL,
    Answer,
    CeilingOpened,
    CeilingTurned,
    Checked,
    Done,
    Opened,
    Prepared,
    Turned,
    encode,
)

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
    path.write_text(text, encoding="utf-8")
    path.chmod(0o755)
    return str(path)


ANSWERS: dict[str, Answer] = {
    "Open": Opened("a fake processor", {"fake": "1"}, {}, "read"),
    "Prepare": Prepared(2, 2000, 1000, 500, 0.1, 0.01, 1e-3, 2, 1e-6, 1e-2, None),
    "TakeTurn": Turned(1e-3, 2, None, 0.0, [2e-3], 2000, 1e-5, {}, {}),
    "Check": Checked(1e-6, {"mode": "fast"}, {"wall_s": 1.0}),
    "Release": Done(),
    "Close": Done(),
    "OpenCeiling": CeilingOpened({"read": "bytes/s", "fma_f32": "FLOP/s"}),
    "OpenDeviceCeiling": CeilingOpened({"read": "bytes/s"}),
    "TakeCeilingTurn": CeilingTurned({"read": 4e10}, {"read": True}, {"read": "4 streams"}, 10_000_000),
}
"""What a good worker answers."""


def backend(folder: Path, at: str = "", trouble: str = "", name: str = "python", **answers: Answer) -> str:
    """A worker that answers as `ANSWERS` and `answers` say, until the command `at`, when it does `trouble`.

    There `number` is the command's, and `count` how many of its kind have come.
    """
    lines = {one: json.loads(encode(answer, 0)) for one, answer in (ANSWERS | answers).items()}
    body = f"""
    import collections
    hello()
    answers, seen = json.loads({json.dumps(lines)!r}), collections.Counter()
    for command in commands():
        kind, number = command["message"], command["number"]
        seen[kind] += 1
        count = seen[kind]
        if kind == {at!r}:
            {trouble or "pass"}
        answer = answers[kind] | dict(number=number)
        write(json.dumps(answer) + "\\n")
        if kind == "Close":
            break
    """
    return impostor(folder, body, name)
