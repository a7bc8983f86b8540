"""A fleet on a real Ray cluster of several nodes, with what goes wrong there: deaths, hangs, a full store, other versions."""

from __future__ import annotations

import getpass
import json
import os
import shutil
import signal
from collections import Counter
from pathlib import Path

import fake_backends
import pytest
import ray_clusters
from fleet_drivers import LIMIT_S
from ray_clusters import QUICKLY, WORKS

pytestmark = [
    pytest.mark.ray,  # which leaves files open that its head node writes to
    pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning"),
]


NODES = 2
"""Each takes seconds of two cores for every suite; tests/fleet_bars has four."""
FILLING = """
import numpy as np
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy as On

@ray.remote(num_cpus=0)
class Hoard:
    def fill(self):
        self.kept = [ray.get(ray.put(np.ones(7 << 20, np.uint8))) for _ in range(11)]

kept = [Hoard.options(scheduling_strategy=On(n["NodeID"], soft=False)).remote() for n in ray.nodes() if n["Alive"]]
ray.get([one.fill.remote() for one in kept])
"""
"""Keeps 77 of the 80 MiB of each node's object store in use."""
HOLDING = """
@ray.remote(num_cpus=1)
class Holder:
    def hold(self):
        return 1

kept = [Holder.remote() for n in ray.nodes() if n["Alive"] and n["Resources"].get("CPU")]
ray.get([one.hold.remote() for one in kept])
"""
"""Takes every processor."""


def see(folder, patch):
    """What nodes and drivers are started with: fake backends, a cache of their own, no telemetry, quick checks of health."""
    fake_backends.install(folder / "backends", patch)
    patch.setenv("MEMBOUND_CACHE_DIR", str(folder / "cache"))
    patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    for name, value in ray_clusters.HEALTH.items():
        patch.setenv(name, value)


@pytest.fixture(scope="module")
def nodes(tmp_path_factory):
    """Some nodes, for all tests: whoever kills one adds one."""
    folder = tmp_path_factory.mktemp("cluster")
    with pytest.MonkeyPatch.context() as patch:
        see(folder, patch)
        with ray_clusters.RayCluster(folder, NODES) as made:
            yield made


@pytest.fixture
def cluster(nodes, tmp_path):
    """The same, with a folder for the rows of one test."""
    nodes.out = tmp_path / "fleets"
    nodes.processes.clear()
    yield nodes
    nodes.end_processes()


def stored(cluster):
    """How many cases are there by (node, status); each is there once."""
    rows = [row for row in cluster.rows() if row.kind == "case"]
    counts = Counter((row.run_id, row.backend, row.replicate, row.work) for row in rows)
    assert set(counts.values()) == {1}
    return Counter((row.machine["node"], row.status) for row in rows)


def by_status(cluster):
    """The same for all nodes together."""
    return Counter(status for _, status in stored(cluster).elements())


def await_ends(cluster):
    """Wait until no process of a fleet is left, whose driver has ended: Ray kills them in its own time."""
    cluster.processes.clear()
    cluster.until(lambda: not ray_clusters.workers_left(cluster.folder / "cache"))


def nothing_left(cluster):
    """The files that nodes still keep when all processes have ended."""
    await_ends(cluster)
    return [path.name for path in (cluster.folder / "cache/fleet").iterdir()]


def names(count=NODES):
    host = os.uname().nodename
    return [host, *(f"{host}#{number + 1}" for number in range(1, count))]


def test_all_rows_of_all_nodes_come_back_once(cluster):
    status, out, err = cluster.fleet(*WORKS, *QUICKLY, "--json")
    assert status == 0, err
    assert stored(cluster) == {(name, "ok"): 3 for name in names()}
    assert {row.machine["rack"] for row in cluster.rows()} == {"r0", "r1"}
    assert f"{NODES} nodes on 1 machine, all of one kind" in err
    assert f"{names()[-1]} all: done: 3 cases" in err
    suites = json.loads(out)["suites"]
    assert [(one["state"], one["rows"], one["cases"], one["failed"]) for one in suites] == [
        ("done", 3, 3, 0)
    ] * NODES
    assert nothing_left(cluster) == []


def test_a_driver_outside_reaches_the_cluster_through_its_client_port(cluster):
    status, _, err = cluster.fleet(*WORKS[:1], *QUICKLY, "--address", cluster.client_address)
    assert status == 0, err
    assert by_status(cluster) == {"ok": NODES}


def test_a_node_that_dies_is_reported_and_replaced(cluster):
    fleet = cluster.start(*WORKS, *QUICKLY, "--replicates", "3")
    cluster.until(lambda: cluster.stored_of(names()[1]) >= 1)
    cluster.kill(names()[1])
    cluster.add(labels={"rack": "r9"})
    _, err = fleet.communicate(timeout=LIMIT_S)
    found = stored(cluster)
    assert fleet.returncode == 1
    died = {status: count for (name, status), count in found.items() if name == names()[1]}
    assert sum(died.values()) == 9
    assert died["crashed"] >= 1
    assert by_status(cluster)["ok"] == NODES * 9 + died["ok"]
    assert f"is measured in the place of {names()[1]}, which died" in err
    assert {row.machine["rack"] for row in cluster.rows()} == {"r0", "r1", "r9"}
    await_ends(cluster)


def test_a_driver_that_is_killed_is_resumed(cluster):
    fleet = cluster.start(*WORKS, *QUICKLY, "--replicates", "2")
    cluster.until(lambda: cluster.stored() >= 2)
    os.killpg(fleet.pid, signal.SIGKILL)
    fleet.communicate()
    before = cluster.stored()
    assert not list(cluster.out.glob("*.jsonl"))
    status, out, err = cluster.fleet("--resume", "latest")
    assert status == 0, err
    assert out.startswith("going on with ")
    assert before < len(cluster.rows())
    assert by_status(cluster) == {"ok": NODES * 6}
    assert not list(cluster.out.glob("*.fleet"))
    await_ends(cluster)


def test_another_fleet_is_refused_and_ctrl_c_leaves_what_resuming_needs(cluster):
    fleet = cluster.start(*WORKS, *QUICKLY, "--repeat", "20")
    cluster.until(lambda: cluster.stored() >= 1)
    status, _, err = cluster.fleet("--nodes", "1")
    assert status == 2
    whose = f"{getpass.getuser()} on {os.uname().nodename}, process {fleet.pid}"
    assert err == f"membound: another fleet is at work on this cluster: {whose}; wait for its end\n"
    ray_clusters.interrupt(fleet)
    out, err = fleet.communicate(timeout=30)
    assert fleet.returncode == 130, (out, err)
    assert "rows are kept: membound fleet --resume" in err
    await_ends(cluster)
    assert list(cluster.out.glob("*.partial"))


def test_a_node_that_hangs_is_given_up(cluster):
    fleet = cluster.start(*WORKS, *QUICKLY, "--replicates", "3", "--silent", "30")
    cluster.until(lambda: all(cluster.stored_of(name) for name in names()))
    hanging = ray_clusters.suites_at_work(cluster.folder / "cache")[-1]
    os.kill(hanging, signal.SIGSTOP)
    _, err = fleet.communicate(timeout=LIMIT_S)
    found = by_status(cluster)
    assert fleet.returncode == 1, err
    assert found["ok"] + found["timeout"] == NODES * 9
    assert 1 <= found["timeout"] <= 9
    assert "no answer for" in err
    await_ends(cluster)


def test_a_full_object_store_keeps_no_row_back(cluster):
    with cluster.beside(FILLING):
        status, _, err = cluster.fleet(*WORKS, *QUICKLY)
    assert status == 0, err
    assert by_status(cluster) == {"ok": NODES * 3}


def test_a_cluster_that_is_busy_is_refused(cluster):
    with cluster.beside(HOLDING):
        status, _, err = cluster.fleet(*WORKS, *QUICKLY, "--wait", "3")
    assert status == 2
    (line,) = err.splitlines()
    assert (
        "no node becomes free: a suite needs all 1 processors that Ray counts on its node, and 0 are" in line
    )
    assert not list(cluster.out.glob("*.jsonl"))


def test_a_plan_names_nodes_devices_minutes_and_bytes(cluster):
    status, out, err = cluster.fleet(*WORKS, *QUICKLY, "--dry-run", "--json")
    assert status == 0, err
    plan = json.loads(out)
    assert (plan["suites"], plan["cases"], len(plan["nodes"])) == (NODES, NODES * 3, NODES)
    assert plan["nodes"][0]["devices"] == ["all"]
    assert 0 < plan["minutes"] < 2
    assert plan["sent_bytes"] > 1_000_000
    assert plan["returned_bytes"] == (NODES * 3 + NODES * 30) * 4_000
    assert not list(cluster.out.glob("*.jsonl*"))


def test_more_nodes_than_there_are_is_one_line(cluster):
    assert cluster.fleet("--nodes", "9") == (2, "", f"membound: --nodes 9: {NODES} can take part\n")


def test_a_folder_that_cannot_be_written_is_refused_before_anything_starts(cluster):
    cluster.out.write_text("a file")
    status, _, err = cluster.fleet("--nodes", "1")
    assert (status, len(err.splitlines())) == (2, 1)
    assert f"results folder {cluster.out} cannot be made" in err


def test_a_node_with_another_membound_is_left_out(nodes, cluster, tmp_path):
    """What is installed there is used, and one of the nodes has an older one."""
    import membound

    older = tmp_path / "older"
    left_out = shutil.ignore_patterns("published", "__pycache__")
    shutil.copytree(Path(membound.__file__).parent, older / "membound", ignore=left_out)
    (older / "membound/version.py").write_text('"""Another."""\n\n__version__ = "0.0.9"\n')
    cluster.add(env_vars={"PYTHONPATH": os.pathsep.join([str(older), os.environ["PYTHONPATH"]])})
    status, out, err = cluster.fleet(*WORKS, *QUICKLY, "--installed")
    assert status == 1, err
    assert "it has membound 0.0.9, and this is" in out
    assert by_status(cluster) == {"ok": NODES * 3}
