"""Impatience: Ctrl-C once, twice, thrice, at any moment, to a real process; it leaves a finished run or one to resume."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from membound.bench.protocol.interrupts import ENDING, deferred

FAKES = Path(__file__).parents[2] / "fakes"
LEFT = ({".jsonl"}, {".partial", ".plan"}, {".partial", ".plan", ".turns"}, {".plan"}, set())
"""What a run may leave: itself; what `--resume` goes on with; nothing where none was begun."""


def test_what_comes_too_early_waits_and_what_comes_too_late_is_forgotten() -> None:
    seen: list[str] = []
    before = signal.getsignal(signal.SIGINT)
    with deferred() as interrupts:
        signal.raise_signal(signal.SIGINT)
        with pytest.raises(KeyboardInterrupt), interrupts:
            seen.append("measured")
        signal.raise_signal(signal.SIGINT)
        with deferred() as same:
            assert same is interrupts
        seen.append("finished")
    assert seen == ["finished"]
    assert signal.getsignal(signal.SIGINT) is before


def test_term_is_heeded_within_two_contexts_where_others_are_ignored() -> None:
    script = (
        "import signal\nfrom membound.bench.protocol.interrupts import deferred\n"
        "for one in signal.SIGINT, signal.SIGHUP: signal.signal(one, signal.SIG_IGN)\n"
        "signal.signal(signal.SIGTERM, signal.default_int_handler)\n"
        "with deferred() as outer, deferred() as inner:\n"
        "    try:\n"
        "        with inner: signal.raise_signal(signal.SIGTERM)\n"
        "    except KeyboardInterrupt: print('ended', outer is inner)"
    )
    done = subprocess.run([sys.executable, "-c", script], check=False, capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("ended True\n", "")


def test_two_are_heeded_and_no_third() -> None:
    with deferred() as interrupts:
        for _ in range(2):
            with pytest.raises(KeyboardInterrupt), interrupts:
                signal.raise_signal(signal.SIGINT)
        with interrupts:
            signal.raise_signal(signal.SIGINT)
    assert interrupts.waiting == [signal.SIGINT]


def test_signals_that_end_a_process_by_default_still_do() -> None:
    script = (
        "import signal\nfrom membound.bench.protocol.interrupts import deferred\n"
        "with deferred(): signal.raise_signal(signal.SIGTERM)"
    )
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == -signal.SIGTERM


STOPPED = """
import sys
from pathlib import Path
from impostors import impostor
from membound.bench.protocol.messages import Release
from membound.bench.protocol.process import Worker

python = impostor(Path(sys.argv[1]), '''
    import time
    hello()
    for command in commands():
        os.kill(os.getppid(), signal.SIGSTOP)
        time.sleep(1.2)
        os.kill(os.getppid(), signal.SIGCONT)
        time.sleep(0.1)
        reply("Done", command["number"])
''')
with Worker(1, python) as worker:
    worker.greet()
    print(worker.ask(Release(0), 0.5))
"""


def test_a_harness_that_was_stopped_takes_no_worker_for_silent(tmp_path: Path) -> None:
    """Ctrl-Z, and a container that is paused: the limit has passed when it goes on, and what was said is not read yet."""
    command = [sys.executable, "-c", STOPPED, str(tmp_path)]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(FAKES), os.environ.get("PYTHONPATH", "")])}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr) == ("Done()\n", "")


IN_A_CLASS = """
import sys
from membound.bench import cli

class Hit:
    def __set_name__(self, owner, name):
        raise KeyboardInterrupt if sys.argv[1] == "interrupt" else ValueError("not that")

cli.main = lambda: type("Made", (), {"field": Hit()})
from membound.__main__ import main
main()
"""


def test_ctrl_c_while_a_class_is_made_is_one_line() -> None:
    """Imports make classes all the time. Up to Python 3.11 what is raised there becomes a RuntimeError."""
    command = [sys.executable, "-c", IN_A_CLASS]
    done = subprocess.run([*command, "interrupt"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (130, "membound: interrupted\n")
    other = subprocess.run([*command, "other"], capture_output=True, text=True, check=False)
    assert other.returncode == 1
    assert "ValueError: not that" in other.stderr


IMPATIENT = """
import os, signal, sys, time
from pathlib import Path
import fake_workers, pytest
from membound.bench import cli
from membound.bench.commands import run as _
from membound.bench.planning import choice
from membound.bench.planning.probe import Found
fake_workers.install(pytest.MonkeyPatch())
choice.probe = lambda *_: [Found(f"{name}:cpu", name, True) for name in ("numpy", "numba")]
print("ready", flush=True)
sys.argv = ["membound", "run", "linear:n=8,k=32", "linear:n=8,k=64", "--quick", "--replicates", "20",
            "--backends", "numpy,numba", "--out", sys.argv[1]]
from membound.__main__ import main
main()
"""


@pytest.mark.parametrize("number", ENDING)
def test_impatience_leaves_nothing_beside_a_finished_run_and_no_traceback(
    tmp_path: Path, number: signal.Signals
) -> None:
    rng = random.Random(f"{os.getpid()} {number}")
    path = os.pathsep.join([str(FAKES), *sys.path])
    for attempt in range(2):
        out = tmp_path / str(attempt)
        process = subprocess.Popen(
            [sys.executable, "-c", IMPATIENT, str(out)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=os.environ | {"PYTHONPATH": path},
        )
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        waits = [rng.uniform(0.0, 0.8), *(rng.choice((0.0, rng.uniform(0.0, 0.05))) for _ in range(2))]
        for wait_s in waits:
            try:
                process.wait(wait_s)
            except subprocess.TimeoutExpired:
                process.send_signal(number)
        _, err = process.communicate(timeout=60)
        assert "Traceback" not in err, (waits, err)
        assert process.returncode in (0, 130, -number), (waits, err)
        left = {one.suffix for one in out.iterdir()} if out.exists() else set()
        assert left in LEFT, (waits, left)


def test_ctrl_c_while_the_command_is_imported_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "typer.py").write_text("import signal\nsignal.raise_signal(signal.SIGINT)\n")
    done = subprocess.run(
        [sys.executable, "-m", "membound", "list"],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"PYTHONPATH": os.pathsep.join([str(tmp_path), *sys.path])},
    )
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "membound: interrupted\n")


@pytest.mark.parametrize("number", ENDING)
def test_a_signal_within_a_command_is_one_line_too(tmp_path: Path, number: signal.Signals) -> None:
    (tmp_path / "pandas.py").write_text(f"import signal\nsignal.raise_signal({int(number)})\n")
    done = subprocess.run(
        [sys.executable, "-m", "membound", "compare", "a", "b"],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"PYTHONPATH": os.pathsep.join([str(tmp_path), *sys.path])},
    )
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "membound: interrupted\n")


PROBING = """
import os, signal, sys, threading
from membound.bench.planning import probe
from membound.bench.protocol.process import Worker
greet = Worker.greet
def greeting(worker, limit_s):
    threading.Timer(0.1, os.kill, [os.getpid(), signal.SIGINT]).start()  # of the whole process
    greet(worker, 1e4)
Worker.greet = greeting
try:
    probe.probe(["numpy"] * 9, 1, {"numpy": sys.argv[1]})
except KeyboardInterrupt:
    print("interrupted")
"""


def test_ctrl_c_while_probing_waits_for_no_runtime(tmp_path: Path) -> None:
    python = tmp_path / "python"
    python.write_text("#!/bin/sh\nexec sleep 1000\n")
    python.chmod(0o755)
    done = subprocess.run(
        [sys.executable, "-c", PROBING, str(python)],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "interrupted\n", "")
