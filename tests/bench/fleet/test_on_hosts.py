"""A fleet on hosts of a network: namespaces of this machine, each with an address, a name and a boot of its own."""

from __future__ import annotations

from collections import Counter

import fake_backends
import network_hosts
import pytest
import ray_clusters
from fleet_drivers import LIMIT_S, FleetDrivers
from network_hosts import CLIENT_PORT, PORT, Network
from ray_clusters import WORKS

pytestmark = [
    pytest.mark.ray,  # which leaves files open that its head node writes to
    pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning"),
]
QUICKLY = ("--backends", "ok:cpu", "--no-ceilings", "--threads", "1")
LOST = {
    "RAY_gcs_rpc_server_reconnect_timeout_s": "5",
    "RAY_grpc_client_keepalive_time_ms": "5000",
    "RAY_grpc_client_keepalive_timeout_ms": "5000",
    "RAY_health_check_timeout_ms": "3000",
}
"""What runs on a node that cannot reach its head ends after seconds, not after minutes; and a node that is only slow is not lost."""
TOKEN = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "5eed" * 16}
"""What every node and driver must know."""


@pytest.fixture(scope="module")
def network(tmp_path_factory):
    """A head without processors, two machines, and one that Ray does not run on."""
    if why := network_hosts.why_none():
        pytest.skip(why)
    folder = tmp_path_factory.mktemp("network")
    with pytest.MonkeyPatch.context() as patch:
        fake_backends.install(folder / "backends", patch)
        more = {"RAY_USAGE_STATS_ENABLED": "0", "MEMBOUND_CACHE_DIR": str(folder / "cache")}
        for name, value in (ray_clusters.HEALTH | LOST | TOKEN | more).items():
            patch.setenv(name, value)
        with Network(folder) as made:
            head = made.host("head")
            network_hosts.head(head)
            for name in ("rack-a1", "rack-a2"):
                network_hosts.node(made.host(name), head)
            made.host("desk")
            for one in made.hosts[1:3]:
                one.await_ray()
            yield made


@pytest.fixture
def drivers(network, tmp_path):
    """Drivers on the head; whatever they start ends with the test."""
    head = network.hosts[0]
    made = FleetDrivers(tmp_path, f"{head.address}:{PORT}", head.words)
    yield made
    made.end_processes()


def stored(drivers):
    """How many cases are there by (node, status); each is there once."""
    rows = [row for row in drivers.rows() if row.kind == "case"]
    counts = Counter((row.run_id, row.backend, row.replicate, row.work) for row in rows)
    assert set(counts.values()) == {1}
    return Counter((row.machine["node"], row.status) for row in rows)


def test_hosts_are_known_by_their_names_and_measure_at_once(drivers):
    status, out, err = drivers.fleet(*WORKS, *QUICKLY, "--nodes", "2")
    assert status == 0, (out, err)
    assert "2 nodes on 2 machines, all of one kind" in out
    assert "take turns" not in out
    assert stored(drivers) == {("rack-a1", "ok"): 3, ("rack-a2", "ok"): 3}


def test_a_driver_without_the_token_is_refused_in_one_line(network, tmp_path):
    head, *_, desk = network.hosts
    without = ("env", *(word for name in TOKEN for word in ("-u", name)))
    drivers = FleetDrivers(tmp_path, f"ray://{head.address}:{CLIENT_PORT}", (*desk.words, *without))
    status, out, err = drivers.fleet("--nodes", "1")
    assert (status, out, len(err.splitlines())) == (2, "", 1), err
    assert "if it demands a token, set RAY_AUTH_MODE=token" in err


def test_an_address_on_the_network_where_nothing_listens_is_one_line(network, drivers):
    drivers.address = f"{network.hosts[-1].address}:{PORT}"
    status, out, err = drivers.fleet("--nodes", "1")
    assert (status, out, len(err.splitlines())) == (2, "", 1)
    assert f"nothing answers at {network.hosts[-1].address} port {PORT}: Connection refused" in err


def test_a_host_whose_cable_is_pulled_is_reported_and_replaced(network, drivers):
    """Neither end hears of it: the head finds out by its checks of health, and the node, where the suite ends, by a message without answer."""
    head, _, cut, _ = network.hosts
    fleet = drivers.start(*WORKS, *QUICKLY, "--replicates", "3")
    drivers.until(lambda: drivers.stored_of(cut.name) >= 1)
    network.cut(cut)
    network_hosts.node(network.host("rack-a3"), head)
    out, err = fleet.communicate(timeout=LIMIT_S)
    drivers.processes.clear()
    found = stored(drivers)
    assert fleet.returncode == 1, (out, err)
    assert found["rack-a1", "ok"] == found["rack-a3", "ok"] == 9
    assert found[cut.name, "ok"] + found[cut.name, "crashed"] == 9
    assert found[cut.name, "crashed"] >= 1
    assert f"rack-a3 is measured in the place of {cut.name}, which died" in err
    drivers.until(lambda: not ray_clusters.workers_left(cut.folder / "cache"))
