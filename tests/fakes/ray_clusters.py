"""A real Ray cluster of several nodes on this machine, and `membound fleet` as a process on it.

>>> with RayCluster(tmp_path, nodes=4) as cluster:
...     done = cluster.fleet(*WORKS)
...     cluster.kill("host#2")
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any

from fleet_drivers import FleetDrivers

STORE_BYTES = 80 << 20
"""Ray's own least is 75 MiB."""
WORKS = [f"linear:n=16,k=64,m={m},weight=f32" for m in (1, 2, 3)]
QUICKLY = ("--backends", "ok:cpu", "--no-ceilings", "--threads", "1", "--together")
HEALTH = {
    "RAY_health_check_initial_delay_ms": "500",
    "RAY_health_check_period_ms": "500",
    "RAY_health_check_timeout_ms": "1000",
    "RAY_health_check_failure_threshold": "3",
    "RAY_worker_niceness": "0",
    "RAY_raylet_start_wait_time_s": "120",
    "RAY_CLIENT_SERVER_CHECK_CHANNEL_TIMEOUT_S": "120",
}
"""A node that does not answer is dead after seconds, not after a minute. Processes do not wait for all other tests, beside which nodes, and
servers for ray://, may take long to start."""


class RayCluster(FleetDrivers):
    """A head without processors, and nodes of one each. A context manager; everything it started ends with it."""

    def __init__(self, folder: Path, nodes: int, **more: Any) -> None:
        from ray.cluster_utils import Cluster

        settings = {"include_dashboard": False, "object_store_memory": STORE_BYTES}
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        self.client_address = f"ray://127.0.0.1:{port}"
        head = {"num_cpus": 0, "ray_client_server_port": port, **settings}
        self._cluster = Cluster(initialize_head=True, head_node_args=head)
        super().__init__(folder, str(self._cluster.address))
        self._settings = settings
        self.nodes: list[Any] = []
        for number in range(nodes):
            self.add(labels={"rack": f"r{number % 2}"}, **more)

    def __enter__(self) -> RayCluster:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.end_processes()
        self._cluster.shutdown()

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
