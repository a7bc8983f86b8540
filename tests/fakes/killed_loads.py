"""Loads whose client is killed at a random moment, and what is left of them: nothing.

    python tests/fakes/killed_loads.py 20 60 --engine vllm --model step:model=tiny,weight=f32 --users 2 --seconds 10

kills twenty loads, each at a moment of its first sixty seconds, and says for each what was left after a while.
"""

from __future__ import annotations

import os
import random
import secrets
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

MARK = "MEMBOUND_KILLED_LOAD"
GONE_S = 15.0
SHARED = Path("/dev/shm")
TCP = (Path("/proc/net/tcp"), Path("/proc/net/tcp6"))
LISTENING = "0A"


@dataclass(frozen=True)
class Killed:
    """When the client was killed, what ran of it by then, and what was left of all that."""

    after_s: float
    ended: bool
    """It had ended by itself before."""
    processes: int
    ports: tuple[int, ...]
    left: tuple[str, ...]


def killed_load(arguments: Sequence[str], after_s: float) -> Killed:
    """Start `membound load` with these arguments, kill it, and look for what is left."""
    mark = secrets.token_hex(8)
    shared = {*os.listdir(SHARED)}
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder) / "tmp"
        place.mkdir()
        client = subprocess.Popen(
            [sys.executable, "-m", "membound", "load", *arguments, "--out", str(Path(folder) / "runs")],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env=os.environ | {MARK: mark, "TMPDIR": str(place)},
            start_new_session=True,
        )
        with suppress(subprocess.TimeoutExpired):
            client.wait(after_s)
        ended, running = client.poll() is not None, marked(mark)
        ports = tuple(sorted(_ports(running)))
        client.send_signal(signal.SIGKILL)
        client.wait()
        until = time.monotonic() + GONE_S
        while (left := _left(mark, shared, place, ports)) and time.monotonic() < until:
            time.sleep(0.1)
        for pid in marked(mark):
            os.kill(pid, signal.SIGKILL)
    return Killed(after_s, ended, len(running), ports, tuple(left))


def killed_loads(arguments: Sequence[str], count: int, within_s: float, seed: int = 1) -> list[Killed]:
    """The same at `count` moments."""
    moments = random.Random(seed)
    return [killed_load(arguments, moments.uniform(0.0, within_s)) for _ in range(count)]


def marked(mark: str) -> list[int]:
    """Processes that were started with the mark in their environment."""
    wanted, found = f"{MARK}={mark}".encode(), []
    for entry in os.listdir("/proc"):
        if entry.isdecimal():
            with suppress(OSError):
                if wanted in Path(f"/proc/{entry}/environ").read_bytes().split(b"\0"):
                    found.append(int(entry))
    return found


def _ports(pids: Sequence[int]) -> set[int]:
    """Those on which these processes listen."""
    inodes = set()
    for pid in pids:
        with suppress(OSError):
            inodes |= {os.readlink(one) for one in Path(f"/proc/{pid}/fd").iterdir()}
    listening = {}
    for table in TCP:
        with suppress(OSError):
            for line in table.read_text(encoding="ascii").splitlines()[1:]:
                fields = line.split()
                if fields[3] == LISTENING:
                    listening[f"socket:[{fields[9]}]"] = int(fields[1].rpartition(":")[2], 16)
    return {port for inode, port in listening.items() if inode in inodes}


def _left(mark: str, shared: set[str], place: Path, ports: Sequence[int]) -> list[str]:
    left = [f"process {pid}" for pid in marked(mark)]
    left += [f"shared memory {name}" for name in sorted({*os.listdir(SHARED)} - shared) if _ours(name, mark)]
    left += [f"{path.name} in the temporary folder" for path in sorted(place.iterdir())]
    for port in ports:
        with socket.socket() as one:
            one.settimeout(1.0)
            left += [f"port {port}"] if one.connect_ex(("127.0.0.1", port)) == 0 else []
    return left


def _ours(name: str, mark: str) -> bool:
    """Whether nobody else holds a new file of shared memory: others may make some meanwhile."""
    target, ours = str(SHARED / name), {*marked(mark)}
    for entry in os.listdir("/proc"):
        if entry.isdecimal() and int(entry) not in ours:
            with suppress(OSError):
                if target in Path(f"/proc/{entry}/maps").read_text(encoding="utf-8", errors="replace"):
                    return False
    return True


if __name__ == "__main__":
    for number, one in enumerate(killed_loads(sys.argv[3:], int(sys.argv[1]), float(sys.argv[2])), 1):
        told = "; ".join(one.left) or "nothing"
        print(
            f"{number}: after {one.after_s:.1f} s{' (it had ended)' if one.ended else ''}, {one.processes} processes, "
            f"ports {one.ports}: left {told}",
            flush=True,
        )
