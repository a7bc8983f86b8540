"""An engine's server: started in its own environment, ready within a limit, ended with all that it started.

>>> with launched(launch) as server:
...     server.endpoint.url, server.facts["max_num_seqs"]
('http://127.0.0.1:40123/v1', 128)
>>> server.left
()

The server has a process group and marks of its own, so that whatever it starts ends with it, and with the harness however that
ends (`guardian`). It listens on a loopback address alone, and asks for a random key that stands in no argument, row or log.
"""

from __future__ import annotations

import asyncio
import json
import os
import secrets
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from membound.backends.serving import KEY, ServedEngine, Settings
from membound.bench.machine.environment import worker_environment
from membound.bench.machine.secrets import SECRET
from membound.bench.measure.failures import FigureError
from membound.bench.measure.figures import served_facts
from membound.bench.protocol import guardian
from membound.bench.serving.connection import Connection, Limits
from membound.bench.serving.endpoint import API, Endpoint
from membound.bench.serving.raw import RawAnswer
from membound.bench.serving.schedule import LoadError
from membound.deadline import Deadline
from membound.kernels.cpu.kernel_cache import runtime_caches

LOOPBACK = "127.0.0.1"
READY_S = 600.0
"""A model of some gigabytes is written, read and compiled in minutes."""
POLL_S = 0.05
STOP_S = 20.0
"""How long a server may take to end by itself once it is asked to."""
GONE_S = 5.0
LAST_BYTES = 8192
MOST_TOLD_BYTES = 1 << 20
"""Of what a server's program tells of itself: a hundred times what any does."""
MOST_PORTS = 1 << 16
SHARED = "/dev/shm/"
UNSET = ("PYTHONDONTWRITEBYTECODE",)
"""With it an engine's modules are compiled anew at each start, for more than a minute."""
ASK = Limits(connect_s=2.0, idle_s=5.0, total_s=5.0)


class ServerFailed(LoadError):
    """A server did not start, or ended; the message has its last words, `status` is that of its rows."""

    def __init__(self, text: str, status: str = "crashed") -> None:
        super().__init__(text)
        self.status = status


@dataclass(frozen=True, slots=True)
class Launch:
    """What to start. `settings.folder` is filled in with a scratch folder; `log` is where the server's words are kept.

    `label` is what it is called in messages and rows, where that is not the engine's name. `on_told` gets the facts that the
    server tells, some time before it is ready.
    """

    engine: ServedEngine
    python: str
    settings: Settings
    log: Path
    ready_s: float = READY_S
    label: str = ""
    on_told: Callable[[Mapping[str, Any]], None] = lambda facts: None

    @property
    def name(self) -> str:
        """What it is called."""
        return self.label or self.engine.name


@dataclass(slots=True)
class Server:
    """One that is ready. `left`: what it left behind when it ended, and what was removed therefore; empty if all is well."""

    engine: str
    endpoint: Endpoint
    name: str
    """Of its model."""
    facts: dict[str, Any]
    ready_s: float
    """From its start."""
    log: Path
    _process: subprocess.Popen[bytes]
    _log_begin: int = 0
    """Bytes of the log that other servers wrote before it started."""
    left: tuple[str, ...] = ()
    stopped_s: float = 0.0
    """How long it took to end."""

    @property
    def pid(self) -> int:
        """Of its first process, which is also the number of its group."""
        return self._process.pid

    def death(self) -> str:
        """How it ended, in a line with its last words; '' while it runs."""
        status = self._process.poll()
        return "" if status is None else _death(status, self.log, self._log_begin)


@contextmanager
def launched(launch: Launch) -> Iterator[Server]:
    """The server, once it answers. Raises ServerFailed if it ends before or is not ready in time."""
    key, mark = secrets.token_urlsafe(24), secrets.token_hex(16)
    with (
        tempfile.TemporaryDirectory(dir=guardian.scratch_folder(), ignore_cleanup_errors=True) as folder,
        launch.log.open("ab") as log,
    ):
        settings = replace(launch.settings, folder=folder)
        started, begin = time.monotonic(), log.seek(0, os.SEEK_END)
        process = _start(launch, settings, log.fileno(), key, mark)
        server: Server | None = None
        try:
            port, facts = _ready(launch, settings, process, key, begin)
            endpoint = Endpoint(LOOPBACK, port, key=key)
            took_s = time.monotonic() - started
            server = Server(launch.name, endpoint, settings.name, facts, took_s, launch.log, process, begin)
            yield server
        finally:
            left = _end(process, mark, None if server is None else server.endpoint)
            if server is not None:
                server.left, server.stopped_s = left.left, left.seconds


def _start(launch: Launch, settings: Settings, log: int, key: str, mark: str) -> subprocess.Popen[bytes]:
    engine = launch.engine
    dropped = {*UNSET, *engine.unset, guardian.HARNESS, guardian.WORKER}
    kept = {
        name: value for name, value in os.environ.items() if name not in dropped and not SECRET.search(name)
    }
    try:
        return subprocess.Popen(
            # -P: a file such as random.py in the current folder must not shadow a module
            [launch.python, "-P", "-m", engine.program, str(settings.write())],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env=worker_environment(settings.threads, kept)
            | runtime_caches()
            | dict(engine.variables)
            | {guardian.HARNESS: guardian.harness_mark(), guardian.WORKER: mark, KEY: key}
            | {"TMPDIR": settings.folder},
            start_new_session=True,
        )
    except OSError as error:
        raise ServerFailed(f"{launch.python} cannot be started: {error.strerror}", "unavailable") from None


def _ready(
    launch: Launch,
    settings: Settings,
    process: subprocess.Popen[bytes],
    key: str,
    log_begin: int,
) -> tuple[int, dict[str, Any]]:
    """Its port and facts, once it has told them and answers. Raises ServerFailed."""
    port, facts = 0, dict[str, Any]()
    deadline = Deadline(launch.ready_s)
    while deadline.left() > 0:
        if (status := process.poll()) is not None:
            raise ServerFailed(
                f"{launch.name} did not start: {_death(status, launch.log, log_begin)}; its log is {launch.log}"
            )
        if not port and settings.told.exists():
            port, facts = _told(settings.told, launch.name)
            launch.on_told(facts)
        if port and asyncio.run(_answers(Endpoint(LOOPBACK, port, key=key), launch.engine.ready_path)):
            return port, facts
        time.sleep(POLL_S)
    raise ServerFailed(
        f"{launch.name} was not ready after {launch.ready_s:.0f} s (--ready allows more); its log is {launch.log}",
        "timeout",
    )


def _told(path: Path, name: str) -> tuple[int, dict[str, Any]]:
    """The port and the facts that a program told. Raises ServerFailed for what no server can tell."""
    with path.open("rb") as file:
        content = file.read(MOST_TOLD_BYTES + 1)
    try:
        if len(content) > MOST_TOLD_BYTES:
            raise FigureError(f"what it tells is longer than {MOST_TOLD_BYTES} bytes")
        told = json.loads(content)
        port, facts = told["port"], served_facts(told["facts"])
        if not isinstance(port, int) or not 0 < port < MOST_PORTS:
            raise FigureError(f"port is {port!r:.60}, not a number from 1 to {MOST_PORTS - 1}")
    except (FigureError, ValueError, LookupError, TypeError, RecursionError) as error:
        why = str(error) if isinstance(error, FigureError) else "it is no JSON with a port and facts"
        raise ServerFailed(f"{name} says of itself what cannot be: {why}", "error") from None
    return port, facts


async def _answers(endpoint: Endpoint, path: str) -> bool:
    """Whether it says that it is ready."""
    raw = RawAnswer(time.monotonic_ns())
    try:
        connection = await Connection.open(endpoint, ASK)
    except OSError:
        return False
    try:
        await connection.request("GET", f"{endpoint.prefix.removesuffix(API)}{path}", b"", raw)
    finally:
        connection.close()
    return raw.status == 200


@dataclass(frozen=True, slots=True)
class _Ending:
    left: tuple[str, ...] = ()
    seconds: float = 0.0


def _end(process: subprocess.Popen[bytes], mark: str, endpoint: Endpoint | None) -> _Ending:
    """Ask it to end, then see to it; what it left behind is removed and told."""
    begun = time.monotonic()
    shared = _shared_memory(guardian.marked(guardian.WORKER, mark)) if process.poll() is None else set()
    left = []
    with suppress(ProcessLookupError):
        process.send_signal(signal.SIGTERM)
    try:
        process.wait(STOP_S)
    except subprocess.TimeoutExpired:
        left.append(f"it did not end within {STOP_S:.0f} s of TERM, and was killed")
    seconds = time.monotonic() - begun
    late = _waited_out(mark)
    guardian.end_marked(guardian.WORKER, mark)
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    if late:
        left.append(f"{late} of its processes outlived it, and were killed")
    for path in sorted(shared):
        with suppress(FileNotFoundError):
            path.unlink()
            left.append(f"shared memory {path}, which was removed")
    if endpoint is not None and _listens(endpoint.port):
        left.append(f"somebody still listens on port {endpoint.port}")
    return _Ending(tuple(left), seconds)


def _waited_out(mark: str) -> int:
    """How many of its processes are there a moment after it ended."""
    until = time.monotonic() + GONE_S
    while (found := len(guardian.marked(guardian.WORKER, mark))) and time.monotonic() < until:
        time.sleep(POLL_S)
    return found


def _shared_memory(pids: list[int]) -> set[Path]:
    """The files of shared memory that these processes have mapped or open."""
    found: set[str] = set()
    for pid in pids:
        with suppress(OSError):
            for line in Path(f"/proc/{pid}/maps").read_text(encoding="utf-8").splitlines():
                _, slash, name = line.partition(SHARED)
                found |= {name} if slash else set()
            for link in Path(f"/proc/{pid}/fd").iterdir():
                target = os.readlink(link)
                found |= {target.removeprefix(SHARED)} if target.startswith(SHARED) else set()
    return {Path(SHARED) / name for name in found if name and not name.endswith(" (deleted)")}


def _listens(port: int) -> bool:
    with socket.socket() as one:
        one.settimeout(1.0)
        return one.connect_ex((LOOPBACK, port)) == 0


def _death(status: int, log: Path, begin: int) -> str:
    """``exit status 1: its last line``."""
    how = f"exit status {status}" if status >= 0 else f"signal {-status}"
    with suppress(ValueError):
        how = signal.Signals(-status).name if status < 0 else how
    words = _last_words(log, begin)
    return f"{how}: {words}" if words else how


def _last_words(log: Path, begin: int) -> str:
    """The last line that names an error, else the last line; of those behind `begin`, which are its own."""
    with log.open("rb") as file:
        file.seek(max(begin, file.seek(0, os.SEEK_END) - LAST_BYTES))
        lines = [line.strip() for line in file.read().decode(errors="replace").splitlines() if line.strip()]
    errors = [line for line in lines if "Error" in line or "error" in line]
    return (errors or lines or [""])[-1][-300:]
