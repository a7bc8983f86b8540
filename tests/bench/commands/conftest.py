"""The command line in a folder of its own: called, refused, with devices and workers that tests choose."""

import signal
from types import SimpleNamespace

import fake_workers
import pytest
from cli_calls import ELSEWHERE, HERE, found

from membound.bench import api, cli
from membound.bench.planning import choice as setup
from membound.bench.planning import inventory
from membound.bench.protocol import messages as m
from membound.bench.protocol.process import WorkerDiedError, WorkerTimeoutError


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "80")
    return tmp_path


@pytest.fixture
def membound_(capsys):
    """Run the command; returns (status, stdout, stderr)."""

    def call(*arguments):
        with pytest.raises(SystemExit) as ended:
            cli.main([str(a) for a in arguments])
        out, err = capsys.readouterr()
        return ended.value.code, out, err

    return call


@pytest.fixture
def refused(membound_):
    """Run the command, which must refuse in one line; returns that line."""

    def call(*arguments):
        status, out, err = membound_(*arguments)
        assert (status, out) == (2, "")
        assert err.startswith("membound: ")
        assert err.count("\n") == 1
        return err

    return call


@pytest.fixture
def devices(monkeypatch):
    """What probing finds; tests may change the list."""
    here = [found(f"{HERE}:cpu"), found(f"{HERE}:cpu+x")]
    here.append(found(ELSEWHERE, available=False, reason="not installed", remedy="pip install it"))

    def probe(entries, threads, pythons=None):
        return [device for device in here if device.entry in entries]

    def probe_devices(names, threads, pythons=None):
        return [found(name, available=False, reason="no such device", remedy="buy it") for name in names]

    monkeypatch.setattr(setup, "probe", probe)
    monkeypatch.setattr(setup, "probe_devices", probe_devices)
    monkeypatch.setattr(inventory, "probe", probe)
    return here


@pytest.fixture
def measuring(monkeypatch, workers):
    """Workers that answer at once: `statuses` has what becomes of a backend's works, `plans` what was executed."""
    statuses, plans, execute = {}, [], api.execute
    made = SimpleNamespace(statuses=statuses, plans=plans, workers=workers, number=signal.SIGINT)

    def acts(worker, command):
        status = statuses.get(worker.who, "ok")
        if isinstance(command, m.TakeTurn) and status in ("interrupt", "wrong"):
            if status == "interrupt":
                signal.raise_signal(made.number)  # SIGINT unless a test names another
            return m.Failed("wrong", "because", 0.5)
        if not isinstance(command, m.Prepare) or status in ("ok", "interrupt", "wrong"):
            return fake_workers.turned(0.01) if isinstance(command, m.TakeTurn) else None
        if status in ("crashed", "timeout"):
            raise (WorkerDiedError if status == "crashed" else WorkerTimeoutError)("because")
        return m.Failed(status, "because")

    def noted(plan, writer, progress):
        plans.append(plan)
        return execute(plan, writer, progress)

    workers.acts = acts
    monkeypatch.setattr(api, "execute", noted)
    return made
