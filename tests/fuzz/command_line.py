"""The command as a shell calls it, in this process and in a new folder, with all that measures or installs replaced.

>>> status_of(["show", "nothing"])
(2, "membound: no run 'nothing': ...")
"""

from __future__ import annotations

import atexit
import io
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, chdir, contextmanager, redirect_stderr, redirect_stdout
from functools import cache
from pathlib import Path
from typing import Any, NoReturn
from unittest import mock

import seeds

from membound.bench import cli
from membound.bench.claim import session as claim_session
from membound.bench.environments import build
from membound.bench.gate import session as gate_session
from membound.bench.planning import choice
from membound.bench.planning.probe import Found
from membound.bench.protocol.process import Worker
from membound.bench.run import session
from membound.bench.serving import null_process, running
from membound.errors import MemboundError
from membound.results.folders import DEFAULT_OUT


class Stopped(MemboundError):
    """Where measuring would begin."""


def _stop(*_: Any, **__: Any) -> NoReturn:
    raise Stopped("stopped before anything was measured")


def _found(*_: Any, **__: Any) -> list[Found]:
    return [Found("numpy:cpu", "numpy", True)]


@cache
def _home() -> Path:
    """A folder for the current folders of all command lines, with a run and a claim to link to."""
    home = Path(tempfile.mkdtemp(prefix="membound-fuzz-"))
    atexit.register(shutil.rmtree, home, ignore_errors=True)
    (home / "run.jsonl").write_bytes(seeds.runs()[0])
    (home / "claim-x.jsonl").write_bytes(seeds.claims()[0])
    return home


@contextmanager
def _nothing_measured() -> Iterator[None]:
    with ExitStack() as replaced:
        for place, name in (
            (session, "measure"),
            (session, "go_on"),
            (claim_session, "execute"),
            (build, "create"),
            *((gate_session, name) for name in ("gate_commits", "gate_commands", "selftest", "learn_noise")),
            (running, "measure_load"),
            (null_process, "serve"),
        ):
            replaced.enter_context(mock.patch.object(place, name, _stop))
        for name in ("probe", "probe_devices"):
            replaced.enter_context(mock.patch.object(choice, name, _found))
        replaced.enter_context(mock.patch.object(Worker, "__init__", _stop))
        # its engine reserves more addresses than a campaign may, and ends the process
        replaced.enter_context(mock.patch.dict(sys.modules, {"vl_convert": None}))
        yield


def status_of(arguments: Sequence[str]) -> tuple[int, str]:
    """The exit status, and what was printed."""
    printed = io.StringIO()
    with (
        tempfile.TemporaryDirectory(dir=_home(), ignore_cleanup_errors=True) as folder,
        chdir(folder),
        _nothing_measured(),
        redirect_stdout(printed),
        redirect_stderr(printed),
    ):
        DEFAULT_OUT.mkdir(parents=True)
        os.symlink(_home() / "run.jsonl", DEFAULT_OUT / "20261128T000000-x-0001.jsonl")
        os.symlink(_home() / "claim-x.jsonl", "claim-x.jsonl")
        os.mkfifo("pipe")
        try:
            cli.main(arguments)
        except SystemExit as ended:
            return int(ended.code or 0), printed.getvalue()
    raise AssertionError("the command did not end")
