"""Hosts of a network on this machine, each with an address, a name, a boot and a /tmp/ray of its own, and Ray between them.

>>> with Network(tmp_path) as network:
...     first, other = network.host("head"), network.host("rack-a1")
...     head(first)
...     node(other, first)
...     network.cut(other)                          # its cable is pulled

A host is a network namespace; a bridge in one more of them connects them all, so that this machine's own network knows
nothing of it. Whoever may not make namespaces gets a sentence from `why_none`.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType

BOOT = "/proc/sys/kernel/random/boot_id"
PORT, CLIENT_PORT = 6379, 10001
STORE_BYTES = 80 << 20
"""Ray's own least is 75 MiB."""
START_S = 120.0
"""How long Ray may take to start on a host, beside all other tests."""


def why_none() -> str:
    """Why this machine has no such hosts, or ''."""
    missing = [name for name in ("ip", "unshare", "mount") if shutil.which(name) is None]
    if missing:
        return f"network namespaces take the command {missing[0]}"
    name = f"mb{os.getpid()}-try"
    made = subprocess.run(["ip", "netns", "add", name], capture_output=True, text=True)
    if made.returncode:
        return f"network namespaces cannot be made here: {made.stderr.strip()}"
    subprocess.run(["ip", "netns", "del", name], check=True)
    return ""


def _ip(*words: str) -> str:
    return subprocess.run(["ip", *words], check=True, capture_output=True, text=True).stdout


@dataclass(frozen=True, slots=True)
class Host:
    """One of them: `name` is what it calls itself, `space` its namespace."""

    name: str
    address: str
    space: str
    folder: Path
    started: list[subprocess.Popen[bytes]] = field(default_factory=list)

    @property
    def words(self) -> list[str]:
        """What a command begins with that runs there."""
        script = (
            f"hostname {self.name}; mkdir -p /tmp/ray; mount --bind {self.folder}/ray /tmp/ray; "
            f'mount --bind {self.folder}/boot {BOOT}; exec "$@"'
        )
        return ["ip", "netns", "exec", self.space, "unshare", "--uts", "sh", "-ec", script, "sh"]

    def ray(self, *words: str) -> None:
        """`ray` there, as a process that goes on."""
        command = [*self.words, sys.executable, "-m", "ray.scripts.scripts", *words]
        with (self.folder / "ray.log").open("ab") as log:
            process = subprocess.Popen(
                command,
                stdout=log,
                stderr=log,
                env=os.environ | {"MEMBOUND_CACHE_DIR": str(self.folder / "cache")},  # a disk of its own
                start_new_session=True,
            )
        self.started.append(process)

    def await_ray(self) -> None:
        """Wait until it has started there. Raises AssertionError with its last words."""
        until, log = time.monotonic() + START_S, self.folder / "ray.log"
        while "Ray runtime started" not in (said := log.read_text()):
            if time.monotonic() > until or self.started[-1].poll() is not None:
                raise AssertionError(f"Ray does not start on {self.name}: {said[-2000:]}")
            time.sleep(0.1)

    def processes(self) -> list[int]:
        """All that run there."""
        return [int(word) for word in _ip("netns", "pids", self.space).split()]

    def power_off(self) -> None:
        """Everything there ends at once."""
        while pids := self.processes():
            for pid in pids:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            time.sleep(0.02)
        for process in self.started:
            process.wait()


class Network:
    """A switch and its hosts. A context manager; all that runs there ends with it."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._switch = f"mb{os.getpid()}-switch"
        self.hosts: list[Host] = []

    def __enter__(self) -> Network:
        _ip("netns", "add", self._switch)
        _ip("-n", self._switch, "link", "add", "bridge", "type", "bridge")
        _ip("-n", self._switch, "link", "set", "bridge", "up")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for one in self.hosts:
            one.power_off()
        for space in (*(one.space for one in self.hosts), self._switch):
            _ip("netns", "del", space)

    def host(self, name: str) -> Host:
        """One more of them, switched on."""
        number = len(self.hosts) + 1
        folder = self._folder / name
        for part in ("ray", "cache"):
            (folder / part).mkdir(parents=True)
        (folder / "boot").write_text(f"{number:08}-0000-4000-8000-000000000000\n")
        one = Host(name, f"10.77.0.{number}", f"mb{os.getpid()}-{number}", folder)
        port = f"port{number}"
        _ip("netns", "add", one.space)
        self.hosts.append(one)
        _ip(
            "link",
            "add",
            "eth0",
            "netns",
            one.space,
            "type",
            "veth",
            "peer",
            "name",
            port,
            "netns",
            self._switch,
        )
        _ip("-n", self._switch, "link", "set", port, "master", "bridge", "up")
        _ip("-n", one.space, "addr", "add", f"{one.address}/24", "dev", "eth0")
        for link in ("lo", "eth0"):
            _ip("-n", one.space, "link", "set", link, "up")
        return one

    def cut(self, host: Host) -> None:
        """Pull its cable."""
        _ip("-n", self._switch, "link", "set", f"port{self.hosts.index(host) + 1}", "down")


def head(host: Host) -> None:
    """Start a cluster's head there, without processors."""
    host.ray(
        *("start", "--head", "--block", "--node-ip-address", host.address, "--port", str(PORT)),
        *("--num-cpus", "0", "--ray-client-server-port", str(CLIENT_PORT), "--include-dashboard", "false"),
        *("--object-store-memory", str(STORE_BYTES)),
    )
    host.await_ray()


def node(host: Host, of: Host) -> None:
    """Have it join, with one processor."""
    host.ray(
        *("start", "--block", "--address", f"{of.address}:{PORT}", "--node-ip-address", host.address),
        *("--num-cpus", "1", "--object-store-memory", str(STORE_BYTES)),
    )
