"""Running the server that computes nothing: here until Ctrl-C, or in a process of its own.

>>> with null_process(Script(ttft_s=0.05, itl_s=0.02)) as endpoint: ...
"""

from __future__ import annotations

import asyncio
import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict

from membound.bench.protocol.guardian import HARNESS, harness_mark
from membound.bench.serving.endpoint import Endpoint, parse_url
from membound.bench.serving.null_server import NullServer, Script
from membound.bench.serving.schedule import LoadError

READY_S = 180.0
"""A machine that swaps takes a minute to start an interpreter."""
END_S = 5.0


def serve(script: Script, port: int, told: Callable[[str], None]) -> None:
    """Serve until KeyboardInterrupt, which is how it is meant to end. `told` gets the URL. Raises LoadError."""
    import uvloop

    async def forever() -> None:
        server = NullServer(script)
        try:
            told(Endpoint("127.0.0.1", await server.open(port)).url)
        except OSError as error:
            raise LoadError(f"port {port} cannot be listened on: {error.strerror or error}") from None
        try:
            await asyncio.get_running_loop().create_future()
        finally:
            await server.close()

    with suppress(KeyboardInterrupt), asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(forever())


@contextmanager
def null_process(script: Script) -> Iterator[Endpoint]:
    """One in a process of its own, which ends with this one, however this one ends. Raises LoadError."""
    command = [sys.executable, "-m", "membound.bench.serving.null_process", json.dumps(asdict(script))]
    process = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env=os.environ | {HARNESS: harness_mark()},
        start_new_session=True,
    )
    try:
        yield parse_url(_first_line(process))
    finally:
        process.terminate()
        try:
            process.wait(END_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        if process.stdout is not None:
            process.stdout.close()


def _first_line(process: subprocess.Popen[bytes]) -> str:
    """The URL that it prints. Raises LoadError if it ends before, or takes longer than READY_S."""
    if process.stdout is None:
        raise LoadError("the null server has no standard output")
    line, until = b"", time.monotonic() + READY_S
    while not line.endswith(b"\n"):
        ready, _, _ = select.select([process.stdout], [], [], max(0.0, until - time.monotonic()))
        read = os.read(process.stdout.fileno(), 4096) if ready else b""
        if not read:
            raise LoadError("the server that measures the client did not start: try `membound null-server`")
        line += read
    return line.decode().strip()


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is its parent's to act on
    serve(Script(**json.loads(sys.argv[1])), 0, lambda url: print(url, flush=True))
