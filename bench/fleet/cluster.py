"""The cluster as Ray knows it: its nodes, one actor for each suite, and what comes of them.

>>> with connected("auto", parts) as cluster:
...     cluster.nodes()
[Node(id='…', name='gpu-07', rack='r3', cpus=96.0, gpus=8.0, address='node:10.0.0.7')]

Where a suite runs, what it may use, who is alive and how results travel is Ray's affair. A suite takes all processors and
accelerators that Ray counts on its node, and the node's address, of which there is one: nothing else that Ray starts
measures or computes there meanwhile.
"""

from __future__ import annotations

import getpass
import logging
import os
import re
import secrets
import socket
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from membound.bench.fleet.assignment import Assignment, Node
from membound.bench.fleet.fleet_error import FleetError
from membound.bench.fleet.holder import Holder
from membound.bench.fleet.order import Order
from membound.bench.protocol import guardian

NAMESPACE = "membound"
PORT = re.compile("[0-9]{1,5}")
LOCK = "fleet"
"""The name of the actor that the one fleet of a cluster holds."""
HEAD = "node:__internal_head__"
"""The resource by which Ray marks its head node."""
LEAST = 0.0001
"""The smallest part of a resource that Ray counts."""
ANSWER_S = 5.0
"""How long the other fleet may take to say whose it is, and the head to accept a connection."""
GREETING_S = 30.0
"""How long a server's first words are waited for: Ray needs seconds for them on a busy machine."""
LOCK_S, LOCK_EVERY_S = 4.0, 0.2
"""How long a lock is asked for, and how often."""
QUIET = {"RAY_USAGE_STATS_ENABLED": "0"}
"""Of the driver: no telemetry."""
VISIBLE = {"RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0"}
"""Of nodes: Ray hides accelerators from what asks for none, such as a survey, and suites that share them."""
GATHER_S = 0.05
"""After one answer others are waited for so long: asking for each of a thousand takes Ray milliseconds."""
TOKEN = "RAY_AUTH_TOKEN"
"""Of a cluster that lets in nobody else. Ray would write one for `local` to ~/.ray, and every `ray start --head` from then on demand it."""
OF_TOKENS = ("authentication token", "unauthenticated")
"""In what Ray says where the token is missing or another one."""
SILENT = ("client connection timeout", "failed to connect to ray cluster")
"""All that Ray says in that case of ray://, and of HOST:PORT."""
CLIENT_PORT = 10001
SETTINGS, SETTINGS_BYTES = 4, 9
"""A frame of HTTP/2 begins with nine bytes, of which the fourth says its kind."""
HTTP2 = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes((0, 0, 0, SETTINGS, 0, 0, 0, 0, 0))
"""What a client begins with: the preface, and no settings of its own."""
LONGEST_FOLDER = 107 - len("/session_2026-11-30_18-25-00_000000_0000000/sockets/plasma_store.0")
"""Bytes of the name of a folder for Ray's sockets, whose own names have 107 at most (unix(7))."""
LOCAL_STORE_BYTES = 80 << 20
"""Ray's own least is 75 MiB; results of a fleet pass by the object store."""


class Cluster:
    """What a driver does with Ray."""

    def __init__(self, ray: Any) -> None:
        self._ray = ray
        self._actors: dict[str, Any] = {}

    def nodes(self) -> list[Node]:
        """Living nodes with processors, by name. Nodes of one name are numbered."""
        alive = [
            entry
            for entry in self._asked(self._ray.nodes)
            if entry["Alive"] and entry["Resources"].get("CPU", 0) >= 1
        ]
        numbers: dict[str, int] = {}
        nodes = []
        for entry in sorted(alive, key=lambda one: (one["NodeManagerHostname"], one["NodeID"])):
            host = entry["NodeManagerHostname"]
            number = numbers[host] = numbers.get(host, 0) + 1
            nodes.append(node_of(entry, host if number == 1 else f"{host}#{number}"))
        return nodes

    def survey(self, node: Node, order: Order | None) -> Any:
        """Have a node say what it is; the reference of its Facts."""
        from membound.bench.fleet.survey import facts

        task = self._ray.remote(facts).options(
            num_cpus=0, max_retries=0, scheduling_strategy=self._on(node), name=f"survey {node.name}"
        )
        return task.remote(order, int(node.gpus))

    def start(self, one: Assignment, order: Order, share: int) -> None:
        """Start a suite: `share` suites may use its node at once, each a part of it."""
        from membound.bench.fleet.node_run import NodeRun

        actor = self._ray.remote(NodeRun).options(
            **needs(one.node, one.device, share),
            max_restarts=0,
            max_concurrency=4,
            scheduling_strategy=self._on(one.node),
        )
        self._actors[one.run_id] = actor.remote(order)

    def ask(self, one: Assignment, wait_s: float) -> Any:
        """Ask a suite for its next rows; the reference of what it hands over."""
        return self._actors[one.run_id].hand_over.remote(one.rows, wait_s)

    def forget(self, one: Assignment) -> Any:
        """Tell a suite that all of it is stored; the reference of its answer."""
        return self._actors[one.run_id].forget.remote()

    def end(self, one: Assignment) -> None:
        """End a suite's processes. Those that are gone already are none of our worry."""
        actor = self._actors.pop(one.run_id, None)
        if actor is not None:
            self._ray.kill(actor)

    def ready(self, references: Sequence[Any], timeout_s: float) -> list[Any]:
        """Those of them that have come, after one has or the time is over."""
        few = {"fetch_local": False}  # answers are small, and come by themselves
        found, rest = self._asked(self._ray.wait, list(references), num_returns=1, timeout=timeout_s, **few)
        if found and rest:
            time.sleep(GATHER_S)
            more, _ = self._asked(self._ray.wait, rest, num_returns=len(rest), timeout=0, **few)
            found = [*found, *more]
        return list(found)

    def result(self, reference: Any) -> tuple[Any, str]:
        """(what came, '') or (None, why nothing did)."""
        try:
            return self._ray.get(reference), ""
        except self._ray.exceptions.RayError as error:
            return None, last_line(error)

    def free_cpus(self) -> float:
        """Processors of all nodes that no task holds."""
        return float(self._asked(self._ray.available_resources).get("CPU", 0.0))

    def _asked(self, call: Any, *arguments: Any, **more: Any) -> Any:
        """What Ray answers. Raises FleetError if the cluster is gone, which it is when its head node is."""
        try:
            return call(*arguments, **more)
        except (self._ray.exceptions.RayError, ConnectionError) as error:
            raise FleetError(
                f"the cluster does not answer any more ({last_line(error)}); the rows so far are kept for --resume"
            ) from None

    def _on(self, node: Node) -> Any:
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        return NodeAffinitySchedulingStrategy(node.id, soft=False)


def needs(node: Node, device: str, share: int) -> dict[str, Any]:
    """What a suite asks Ray for: the node, or an equal part of it where `share` suites use it at once.

    >>> needs(Node("1f", "gpu-07", "", 96.0, 8.0, "node:10.0.0.7"), "all", share=1)
    {'num_cpus': 96.0, 'num_gpus': 8.0, 'resources': {'node:10.0.0.7': 1.0}}
    """
    if share == 1:
        return {"num_cpus": node.cpus, "num_gpus": node.gpus, "resources": {node.address: 1.0}}
    part = max(LEAST, int(1 / share / LEAST) * LEAST)
    return {
        "num_cpus": max(1, node.cpus // share),
        "num_gpus": 0,  # all of them stay visible, and each suite names its own
        "resources": {node.address: part},
    }


def node_of(entry: Mapping[str, Any], name: str) -> Node:
    """A node as Ray describes it."""
    resources = entry["Resources"]
    address = next((key for key in resources if key.startswith("node:") and key != HEAD), "")
    rack = (entry.get("Labels") or {}).get("rack", "")
    return Node(entry["NodeID"], name, rack, resources.get("CPU", 0.0), resources.get("GPU", 0.0), address)


def why_not(error: BaseException) -> str:
    """Why a cluster cannot be reached, in a line."""
    said, needed = (
        str(error).lower(),
        f"set RAY_AUTH_MODE=token, and have its ~/.ray/auth_token here, or {TOKEN}",
    )
    if any(words in said for words in OF_TOKENS):
        return f"it demands a token: {needed}"
    if any(words in said for words in SILENT) and os.environ.get("RAY_AUTH_MODE") != "token":
        return f"{last_line(error)}; if it demands a token, {needed}"
    return last_line(error)


def last_line(error: BaseException) -> str:
    """The last line of what Ray says of an error, whose first ones are a traceback."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1][:300] if lines else type(error).__name__


@contextmanager
def connected(address: str, parts: Sequence[Path]) -> Iterator[Cluster]:
    """A cluster with the fleet's lock, to every node of which `parts` are sent. On leaving, all that runs for it ends.

    `local` is a cluster of this machine alone, which ends as well. Raises FleetError.
    """
    ray = _imported()
    check_address(address)
    settings: dict[str, Any] = {
        "namespace": NAMESPACE,
        "log_to_driver": False,
        "logging_level": logging.CRITICAL,
    }
    settings["runtime_env"] = {"env_vars": VISIBLE} | ({"py_modules": list(map(str, parts))} if parts else {})
    if address == "local":
        settings |= {"include_dashboard": False, "object_store_memory": LOCAL_STORE_BYTES}
        settings |= _own_folder()
        os.environ.setdefault(TOKEN, secrets.token_hex(32))
    try:
        with warnings.catch_warnings(action="ignore"):  # which say in many words what the error does
            ray.init(address=address, **settings)
    except (ConnectionError, RuntimeError, ValueError, OSError, ray.exceptions.RayError) as error:
        raise FleetError(f"--address {address}: no fleet there: {why_not(error)}") from None
    try:
        holder = _locked(ray)
        try:
            yield Cluster(ray)
        finally:
            ray.kill(holder)
    finally:
        ray.shutdown()


def _own_folder() -> dict[str, str]:
    """Where Ray keeps what it sends to processes, of a cluster of this machine: its own choice is /tmp/ray, which all may write to.

    RAY_TMPDIR names another; Ray's choice stays where the name would be too long for the sockets that it makes there.
    """
    if os.environ.get("RAY_TMPDIR"):
        return {}
    folder = guardian.scratch_folder() / "ray"  # Ray lets all write to it, and nobody else comes there
    return {"_temp_dir": str(folder)} if len(os.fsencode(folder)) <= LONGEST_FOLDER else {}


def _imported() -> Any:
    """Ray, told beforehand to be quiet. Raises FleetError."""
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)
    try:
        import ray
    except ImportError:
        raise FleetError("Ray is not installed: pip install 'membound[ray]'") from None
    return ray


def check_address(address: str) -> None:
    """Raises FleetError if nobody answers at an address with a port, or no Ray, which Ray itself would find out after minutes."""
    if address in ("auto", "local"):
        return
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if address.startswith("ray://") and not host:
        host, port = port, str(CLIENT_PORT)
    if not host or not PORT.fullmatch(port) or not 0 < int(port) < 1 << 16:
        raise FleetError(f"--address {address} is none of auto, local, HOST:PORT and ray://HOST:PORT")
    try:
        with socket.create_connection((host.strip("[]"), int(port)), timeout=ANSWER_S) as link:
            if not _speaks_grpc(link):
                raise FleetError(f"--address {address}: what answers at {host} port {port} is no Ray")
    except (OSError, UnicodeError) as error:  # of a name that no host can have
        why = getattr(error, "strerror", None) or str(error)
        raise FleetError(f"--address {address}: nothing answers at {host} port {port}: {why}") from None


def _speaks_grpc(link: socket.socket) -> bool:
    """Whether the other end begins with the settings of HTTP/2 (RFC 9113, sections 3.4 and 6.5), as servers of gRPC do. Of TLS: unknown."""
    if os.environ.get("RAY_USE_TLS", "0") == "1":
        return True
    found = b""
    link.settimeout(GREETING_S)
    try:
        link.sendall(HTTP2)
        while len(found) < SETTINGS_BYTES and (some := link.recv(SETTINGS_BYTES - len(found))):
            found += some
    except OSError:  # it is silent, or hangs up
        return False
    return len(found) == SETTINGS_BYTES and found[3] == SETTINGS


def _locked(ray: Any) -> Any:
    """The actor that holds the cluster for one fleet. Raises FleetError that says whose the other one is."""
    whose = f"{getpass.getuser()} on {socket.gethostname()}, process {os.getpid()}"
    taken, until = "", time.monotonic() + LOCK_S
    while True:
        try:
            return _hold(ray, whose)
        except (
            ValueError
        ):  # the name is taken, if only by a fleet whose driver was killed: Ray ends its actors
            with suppress(ValueError, ray.exceptions.RayError):
                taken = ray.get(ray.get_actor(LOCK, NAMESPACE).whose.remote(), timeout=ANSWER_S)
        if time.monotonic() > until:
            whose_it_is = taken or "it does not answer"
            raise FleetError(f"another fleet is at work on this cluster: {whose_it_is}; wait for its end")
        time.sleep(LOCK_EVERY_S)


def _hold(ray: Any, whose: str) -> Any:
    actor = ray.remote(Holder).options(name=LOCK, num_cpus=0, resources={HEAD: LEAST})
    holder = actor.remote(whose)
    ray.get(holder.whose.remote(), timeout=60.0)
    return holder
