"""A real Ray cluster of several nodes on this machine, and `membound fleet` as a process on it.

>>> with RayCluster(tmp_path, nodes=4) as cluster:
...     done = cluster.fleet(*WORKS)
...     cluster.kill("host#2")
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any

from membound.results.row import Row
from membound.results.store import load_rows

STORE_BYTES = 80 << 20
"""Ray's own least is 75 MiB."""
WORKS = [f"linear:n=16,k=64,m={m},weight=f32" for m in (1, 2, 3)]
QUICKLY = ("--backends", "ok:cpu", "--no-ceilings", "--threads", "1", "--together")
LIMIT_S = 200.0
HEALTH = {
    "RAY_health_check_initial_delay_ms": "500",
    "RAY_health_check_period_ms": "500",
    "RAY_health_check_timeout_ms": "1000",
    "RAY_health_check_failure_threshold": "3",
    "RAY_worker_niceness": "0",
}
"""A node that does not answer is dead after seconds, not after a minute; and processes do not wait for all other tests."""


class RayCluster:
    """A head without processors, and nodes of one each. A context manager; everything it started ends with it."""

    def __init__(self, folder: Path, nodes: int, **more: Any) -> None:
        from ray.cluster_utils import Cluster

        self.folder = folder
        self.out = folder / "fleets"
        settings = {"include_dashboard": False, "object_store_memory": STORE_BYTES}
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        self.client_address = f"ray://127.0.0.1:{port}"
        head = {"num_cpus": 0, "ray_client_server_port": port, **settings}
        self._cluster = Cluster(initialize_head=True, head_node_args=head)
        self._settings = settings
        self.nodes: list[Any] = []
        for number in range(nodes):
            self.add(labels={"rack": f"r{number % 2}"}, **more)
        self.processes: list[subprocess.Popen[str]] = []

    def __enter__(self) -> RayCluster:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.end_processes()
        self._cluster.shutdown()

    def end_processes(self) -> None:
        """Kill the drivers that are left."""
        for process in self.processes:
            if process.poll() is None:
                process.kill()
            process.communicate()
        self.processes.clear()

    @property
    def address(self) -> str:
        """Where drivers connect."""
        return str(self._cluster.address)

    def add(self, **more: Any) -> None:
        """One more node."""
        self.nodes.append(self._cluster.add_node(**({"num_cpus": 1, **self._settings} | more)))

    def kill(self, name: str) -> None:
        """The power of the node that a fleet calls so goes off."""
        ordered = sorted(self.nodes, key=lambda node: str(node.node_id))
        number = name.partition("#")[2]
        node = ordered[int(number or 1) - 1]
        self.nodes.remove(node)
        self._cluster.remove_node(node, allow_graceful=False)

    @contextmanager
    def beside(self, code: str) -> Iterator[None]:
        """Another driver that has done what the code says, and keeps it."""
        begin = f"import ray, time\nray.init({self.address!r}, namespace='other', log_to_driver=False)\n"
        whole = f"{begin}{code}\nprint('done', flush=True)\ntime.sleep(600)\n"
        with subprocess.Popen([sys.executable, "-c", whole], stdout=subprocess.PIPE, text=True) as process:
            try:
                if process.stdout is None or process.stdout.readline() != "done\n":
                    raise AssertionError("the other driver failed")
                yield
            finally:
                process.kill()

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        """`membound fleet` with these arguments, as a process of its own."""
        command = [
            sys.executable,
            "-m",
            "membound",
            "fleet",
            "--address",
            self.address,
            "--out",
            str(self.out),
        ]
        process = subprocess.Popen(
            [*command, *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=self.folder,
            start_new_session=True,
        )
        self.processes.append(process)
        return process

    def fleet(self, *arguments: str) -> tuple[int, str, str]:
        """The same to its end: (status, standard output, standard error)."""
        process = self.start(*arguments)
        out, err = process.communicate(timeout=LIMIT_S)
        return process.returncode, out, err

    def until(self, holds: Callable[[], bool]) -> None:
        """Wait for something that the fleet does."""
        until = time.monotonic() + LIMIT_S
        while not holds():
            ended = [process for process in self.processes if process.poll() is not None]
            if ended or time.monotonic() > until:
                raise AssertionError(f"it never came: {[process.communicate() for process in ended]}")
            time.sleep(0.05)

    def stored(self) -> int:
        """Rows on the driver's disk at the moment."""
        return sum(
            path.read_bytes().count(b"\n") for path in self.out.glob("*.jsonl*") if path.suffix != ".fleet"
        )

    def stored_of(self, name: str) -> int:
        """The same of one node."""
        mark = json.dumps({"node": name})[1:-1].replace(": ", ":").encode()
        return sum(
            path.read_bytes().count(mark) for path in self.out.glob("*.jsonl*") if path.suffix != ".fleet"
        )

    def rows(self) -> list[Row]:
        """Those of the only fleet."""
        (path,) = self.out.glob("*.jsonl")
        return load_rows(path)


def workers_left(folder: Path) -> Sequence[int]:
    """Processes that measure for a fleet whose nodes keep their cache in a folder."""
    mark = f"MEMBOUND_CACHE_DIR={folder}".encode()
    found = []
    for entry in os.listdir("/proc"):
        try:
            environment = Path("/proc", entry, "environ").read_bytes() if entry.isdecimal() else b""
            words = Path("/proc", entry, "cmdline").read_bytes() if environment else b""
        except OSError:
            continue
        if mark in environment and (b"membound.bench.worker" in words or b"NodeRun" in words):
            found.append(int(entry))
    return found


def suites_at_work(folder: Path) -> list[int]:
    """Those of them that are actors of Ray."""
    return [
        pid for pid in workers_left(folder) if b"NodeRun" in Path("/proc", str(pid), "cmdline").read_bytes()
    ]


def interrupt(process: subprocess.Popen[str]) -> None:
    """Ctrl-C."""
    process.send_signal(signal.SIGINT)
