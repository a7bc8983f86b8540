"""What is asked of Ray, without Ray: addresses, resources, nodes as it describes them."""

from __future__ import annotations

import builtins
import socket
import threading
from pathlib import Path

import pytest

from membound.bench.fleet import cluster
from membound.bench.fleet.assignment import Node
from membound.bench.fleet.cluster import Cluster, check_address, connected, last_line, needs, node_of, why_not
from membound.bench.fleet.fleet_error import FleetError
from membound.bench.protocol import guardian

GPU_NODE = Node("1f", "gpu-07", "", 96.0, 8.0, "node:10.0.0.7")


def entry(identity, host, **resources):
    return {"NodeID": identity, "NodeManagerHostname": host, "Alive": True, "Resources": resources}


def test_a_suite_takes_the_whole_node():
    assert needs(GPU_NODE, "all", 1) == {
        "num_cpus": 96.0,
        "num_gpus": 8.0,
        "resources": {"node:10.0.0.7": 1.0},
    }


def test_a_cluster_of_this_machine_keeps_its_files_where_nobody_else_comes(monkeypatch):
    monkeypatch.delenv("RAY_TMPDIR", raising=False)
    monkeypatch.setattr(cluster, "LONGEST_FOLDER", 1000)
    folder = Path(cluster._own_folder()["_temp_dir"])
    assert folder.parent == guardian.scratch_folder()
    assert folder.parent.stat().st_mode & 0o777 == 0o700
    monkeypatch.setattr(cluster, "LONGEST_FOLDER", len(str(folder)) - 1)
    assert cluster._own_folder() == {}, "a socket there would have too long a name"
    monkeypatch.setattr(cluster, "LONGEST_FOLDER", len(str(folder)))
    monkeypatch.setenv("RAY_TMPDIR", "/elsewhere")
    assert cluster._own_folder() == {}


def test_suites_that_run_together_share_it():
    assert needs(GPU_NODE, "cuda:1", 9) == {
        "num_cpus": 10.0,
        "num_gpus": 0,
        "resources": {"node:10.0.0.7": 0.1111},
    }
    assert needs(GPU_NODE, "cuda:1", 200)["num_cpus"] == 1


def test_nodes_are_those_with_processors_under_names_of_their_own():
    class Ray:
        @staticmethod
        def nodes():
            dead = entry("00", "gone", CPU=4.0) | {"Alive": False}
            head = entry("01", "head", **{"node:10.0.0.1": 1.0, "node:__internal_head__": 1.0})
            two = [entry(i, "host", CPU=4.0, GPU=2.0, **{"node:10.0.0.2": 1.0}) for i in ("03", "02")]
            two[0]["Labels"] = {"rack": "r3"}
            return [dead, head, *two]

    assert Cluster(Ray).nodes() == [
        Node("02", "host", "", 4.0, 2.0, "node:10.0.0.2"),
        Node("03", "host#2", "r3", 4.0, 2.0, "node:10.0.0.2"),
    ]


def test_the_mark_of_the_head_is_no_address():
    head = entry("01", "head", CPU=1.0, **{"node:__internal_head__": 1.0, "node:10.0.0.1": 1.0})
    assert node_of(head, "head").address == "node:10.0.0.1"


NONE = ("", "here", "host:", "host:x", "host:99999", ":6379", "http://a:1")
STRANGE = ("host:\u0663", "a..b:1", f"{'a' * 64}:1", "host:" + "9" * 5000)


@pytest.mark.parametrize("address", [*NONE, *STRANGE])
def test_an_address_that_is_none_is_refused(address):
    with pytest.raises(FleetError, match="--address"):
        check_address(address)


@pytest.mark.parametrize("scheme", ["", "ray://"])
def test_an_address_where_nobody_answers_is_refused_at_once(scheme):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with pytest.raises(FleetError, match=f"nothing answers at 127.0.0.1 port {port}: Connection refused"):
        check_address(f"{scheme}127.0.0.1:{port}")


@pytest.mark.parametrize(
    ("answer", "refused"),
    [
        (bytes((0, 0, 12, 4, 0, 0, 0, 0, 0)), False),
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", True),
        (bytes((0, 0, 4)), True),
        (b"", True),
    ],
    ids=["gRPC", "a web server", "cut", "hung up"],
)
def test_what_answers_and_is_no_ray_is_refused(answer, refused):
    heard = []

    def serve():
        link, _ = server.accept()
        with link:
            heard.append(link.recv(100))
            link.sendall(answer)

    with socket.create_server(("127.0.0.1", 0)) as server:
        thread = threading.Thread(target=serve)
        thread.start()
        address = f"127.0.0.1:{server.getsockname()[1]}"
        if refused:
            with pytest.raises(FleetError, match=f"what answers at 127.0.0.1 port {address[10:]} is no Ray"):
                check_address(address)
        else:
            check_address(address)
        thread.join()
    assert heard[0].startswith(b"PRI * HTTP/2.0")


def test_who_is_silent_is_no_ray(monkeypatch):
    monkeypatch.setattr(cluster, "GREETING_S", 0.05)
    with socket.create_server(("127.0.0.1", 0)) as server, pytest.raises(FleetError, match="is no Ray"):
        check_address(f"127.0.0.1:{server.getsockname()[1]}")


def test_without_ray_the_line_says_what_to_install(monkeypatch):
    real = builtins.__import__

    def importing(name, *more):
        if name == "ray":
            raise ImportError("No module named 'ray'")
        return real(name, *more)

    monkeypatch.setattr(builtins, "__import__", importing)
    with (
        pytest.raises(FleetError, match=r"Ray is not installed: pip install 'membound\[ray\]'"),
        connected("auto", []),
    ):
        pass


@pytest.mark.parametrize(
    "said",
    [
        "Failed to connect to GCS.\nInvalidAuthToken: Authentication token is missing or incorrect. Note: a tale",
        "Token authentication is enabled but no authentication token was found",
        "StatusCode.UNAUTHENTICATED",
    ],
)
def test_a_cluster_that_demands_a_token_says_what_to_set(said):
    assert why_not(RuntimeError(said)) == (
        "it demands a token: set RAY_AUTH_MODE=token, and have its ~/.ray/auth_token here, or RAY_AUTH_TOKEN"
    )
    assert why_not(RuntimeError("no route\nto host")) == "to host"


@pytest.mark.parametrize("said", ["ray client connection timeout", "Failed to connect to Ray cluster at a:1"])
def test_a_port_that_does_not_answer_may_want_a_token(monkeypatch, said):
    monkeypatch.delenv("RAY_AUTH_MODE", raising=False)
    silent = ConnectionError(said)
    assert why_not(silent).startswith(f"{said}; if it demands a token, set RAY_AUTH_MODE=token")
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    assert why_not(silent) == said


def test_of_a_traceback_the_last_line_counts():
    assert last_line(RuntimeError("Traceback\n  File x\n\nValueError: no\n")) == "ValueError: no"
    assert last_line(TimeoutError()) == "TimeoutError"
