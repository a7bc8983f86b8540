"""A fleet on a real Ray cluster of several nodes, with what goes wrong there: deaths, hangs, a full store, other versions."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path

import fake_backends
import psutil
import pytest

pytestmark = pytest.mark.ray


@pytest.fixture
def nodes_see(tmp_path, monkeypatch):
    """What nodes and drivers are started with: fake backends, a cache of their own, no telemetry."""
    import ray_clusters

    fake_backends.install(tmp_path / "backends", monkeypatch)
    monkeypatch.setenv("MEMBOUND_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    for name, value in ray_clusters.HEALTH.items():
        monkeypatch.setenv(name, value)


@pytest.fixture
def cluster(tmp_path, nodes_see):
    """Four nodes."""
    import ray_clusters

    with ray_clusters.RayCluster(tmp_path, 4) as made:
        yield made


def stored(cluster):
    """How often each case of each run is there, by (node, status)."""
    rows = [row for row in cluster.rows() if row.kind == "case"]
    counts = Counter((row.run_id, row.backend, row.replicate, row.work) for row in rows)
    assert set(counts.values()) == {1}
    return Counter((row.machine["node"], row.status) for row in rows)


def nothing_left(cluster):
    """No actor of the fleet, no worker, no file on a node."""
    import ray_clusters

    cluster.until(lambda: not ray_clusters.workers_left(cluster.folder / "cache"))
    return [path.name for path in (cluster.folder / "cache/fleet").iterdir()]


def test_all_rows_of_four_nodes_come_back_once(cluster):
    import ray_clusters

    status, out, err = cluster.fleet(*ray_clusters.WORKS, *ray_clusters.QUICKLY)
    assert status == 0, err
    host = os.uname().nodename
    names = [host, *(f"{host}#{number}" for number in (2, 3, 4))]
    assert stored(cluster) == {(name, "ok"): 3 for name in names}
    assert {row.machine.get("rack") for row in cluster.rows()} == {"r0", "r1"}
    assert "4 nodes on 1 machine, all of one kind" in out
    assert f"{names[3]} all: done: 3 cases" in err
    assert nothing_left(cluster) == []


def test_nodes_that_die_are_reported_and_replaced(cluster):
    import ray_clusters

    fleet = cluster.start(*ray_clusters.WORKS, *ray_clusters.QUICKLY)
    cluster.until(lambda: cluster.stored() >= 2)
    cluster.kill(1)
    cluster.add()
    _, err = fleet.communicate(timeout=ray_clusters.LIMIT_S)
    found = stored(cluster)
    assert fleet.returncode == 1
    assert sorted(count for (_, status), count in found.items() if status == "ok")[-4:] == [3, 3, 3, 3], err
    assert sum(found.values()) == 5 * 3
    assert "in the place of" in err
    assert nothing_left(cluster) == []


def test_a_driver_that_is_killed_is_resumed(cluster):
    import ray_clusters

    fleet = cluster.start(*ray_clusters.WORKS, *ray_clusters.QUICKLY)
    cluster.until(lambda: cluster.stored() >= 2)
    os.killpg(fleet.pid, signal.SIGKILL)
    fleet.communicate()
    before = cluster.stored()
    assert not list(cluster.out.glob("*.jsonl"))
    status, out, err = cluster.fleet("--resume", "latest")
    assert status == 0, err
    assert "4 of 4 suites are left" in out or "suites are left" in out
    assert len(cluster.rows()) >= before
    assert Counter(status for _, status in stored(cluster).elements()) == {"ok": 12}
    assert nothing_left(cluster) == []


def test_ctrl_c_leaves_nothing_behind_but_what_resuming_needs(cluster):
    import ray_clusters

    fleet = cluster.start(*ray_clusters.WORKS, *ray_clusters.QUICKLY)
    cluster.until(lambda: cluster.stored() >= 1)
    ray_clusters.interrupt(fleet)
    out, err = fleet.communicate(timeout=30)
    assert fleet.returncode == 130, (out, err)
    assert "rows are kept: membound fleet --resume" in err
    cluster.until(lambda: not ray_clusters.workers_left(cluster.folder / "cache"))
    status, _, err = cluster.fleet("--resume", "latest")
    assert status == 0, err
    assert Counter(status for _, status in stored(cluster).elements()) == {"ok": 12}


def test_a_node_that_hangs_is_given_up(cluster):
    import ray_clusters

    fleet = cluster.start(*ray_clusters.WORKS, *ray_clusters.QUICKLY, "--silent", "20")
    cluster.until(lambda: cluster.stored() >= 1)
    hanging = [p for p in psutil.process_iter(["cmdline"]) if "NodeRun" in " ".join(p.info["cmdline"] or ())]
    hanging = [p for p in hanging if p.pid in ray_clusters.workers_left(cluster.folder / "cache")]
    os.kill(hanging[-1].pid, signal.SIGSTOP)
    try:
        fleet.communicate(timeout=ray_clusters.LIMIT_S)
    finally:
        os.kill(hanging[-1].pid, signal.SIGCONT)
    found = stored(cluster)
    assert fleet.returncode == 1
    assert sum(found.values()) == 12
    assert 0 < sum(count for (_, status), count in found.items() if status == "timeout") <= 3


def test_a_full_object_store_keeps_no_row_back(cluster):
    import ray_clusters

    filling = f"""
import os, ray, time
import numpy as np
ray.init({cluster.address!r}, namespace="other", log_to_driver=False)
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy as On

@ray.remote(num_cpus=0)
class Hoard:
    def fill(self):
        self.kept = [ray.put(np.ones(7 << 20, np.uint8)) for _ in range(11)]
        self.held = ray.get(self.kept)

hoards = [Hoard.options(scheduling_strategy=On(n["NodeID"], soft=False)).remote() for n in ray.nodes()]
ray.get([one.fill.remote() for one in hoards])
print("full", flush=True)
time.sleep(600)
"""
    hoard = subprocess.Popen([sys.executable, "-c", filling], stdout=subprocess.PIPE, text=True)
    try:
        assert hoard.stdout.readline() == "full\n"
        status, _, err = cluster.fleet(*ray_clusters.WORKS, *ray_clusters.QUICKLY)
    finally:
        hoard.kill()
        hoard.communicate()
    assert status == 0, err
    assert Counter(status for _, status in stored(cluster).elements()) == {"ok": 12}


def test_a_second_fleet_is_refused_while_the_first_one_is_at_work(cluster):
    import ray_clusters

    first = cluster.start(*ray_clusters.WORKS, *ray_clusters.QUICKLY, "--repeat", "5")
    cluster.until(lambda: cluster.stored() >= 1)
    second = subprocess.run(
        [
            sys.executable,
            "-m",
            "membound",
            "fleet",
            "--address",
            cluster.address,
            "--out",
            str(cluster.folder / "other"),
        ],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert second.returncode == 2
    assert second.stderr.splitlines() == [
        f"membound: another fleet is at work on this cluster: root on {os.uname().nodename}, process {first.pid}; "
        "wait for its end"
    ]
    ray_clusters.interrupt(first)
    first.communicate(timeout=30)


def test_a_cluster_that_is_busy_is_refused(cluster):
    import ray_clusters

    holding = f"""
import ray, time
ray.init({cluster.address!r}, namespace="other", log_to_driver=False)

@ray.remote(num_cpus=1)
class Holder:
    def hold(self):
        return 1

held = [Holder.remote() for _ in range(4)]
ray.get([one.hold.remote() for one in held])
print("held", flush=True)
time.sleep(600)
"""
    holder = subprocess.Popen([sys.executable, "-c", holding], stdout=subprocess.PIPE, text=True)
    try:
        assert holder.stdout.readline() == "held\n"
        status, _, err = cluster.fleet(*ray_clusters.WORKS, *ray_clusters.QUICKLY, "--wait", "3")
    finally:
        holder.kill()
        holder.communicate()
    assert status == 2
    (line,) = err.splitlines()
    assert "does not become free: a suite needs all 1 processors" in line
    assert not list(cluster.out.glob("*.jsonl"))


def test_a_node_with_another_membound_is_left_out(tmp_path, nodes_see, monkeypatch):
    import ray_clusters

    import membound

    older = tmp_path / "older"
    shutil.copytree(
        Path(membound.__file__).parent,
        older / "membound",
        ignore=shutil.ignore_patterns("published", "__pycache__"),
    )
    (older / "membound/version.py").write_text('"""Another."""\n\n__version__ = "0.0.9"\n')
    with ray_clusters.RayCluster(tmp_path, 1) as cluster:
        path = os.pathsep.join([str(older), os.environ["PYTHONPATH"]])
        cluster.add(env_vars={"PYTHONPATH": path})
        status, out, err = cluster.fleet(*ray_clusters.WORKS, *ray_clusters.QUICKLY, "--installed")
        assert status == 1, err
        assert "it has membound 0.0.9, and this is" in out
        assert Counter(status for _, status in stored(cluster).elements()) == {"ok": 3}


def test_a_plan_names_nodes_devices_minutes_and_bytes(cluster):
    import ray_clusters

    status, out, err = cluster.fleet(*ray_clusters.WORKS, *ray_clusters.QUICKLY, "--dry-run", "--json")
    assert status == 0, err
    plan = json.loads(out)
    assert (plan["suites"], plan["cases"], len(plan["nodes"])) == (4, 12, 4)
    assert plan["nodes"][0]["devices"] == ["all"]
    assert 0 < plan["minutes"] < 2
    assert plan["sent_bytes"] > 1_000_000
    assert not list(cluster.out.glob("*.jsonl*"))


def test_an_unwritable_folder_is_refused_before_anything_starts(cluster, tmp_path):
    (tmp_path / "fleets").write_text("a file")
    status, _, err = cluster.fleet("--nodes", "1")
    assert status == 2
    assert "results folder" in err
    assert len(err.splitlines()) == 1


def test_more_nodes_than_there_are_is_one_line(cluster):
    status, _, err = cluster.fleet("--nodes", "9")
    assert status == 2
    assert err.splitlines() == ["membound: --nodes 9: 4 can take part"]
