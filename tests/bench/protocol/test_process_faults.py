"""Workers that flood the pipe or die: the harness holds little, and says what happened."""

from __future__ import annotations

import resource
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from impostors import HELLO, impostor, shell
from processes import LATE_S, SOON_S, gone, started

from membound.bench.protocol import process
from membound.bench.protocol.messages import (
    MOST_LINE,
    Done,
    Failed,
    Release,
)
from membound.bench.protocol.process import (
    WorkerDiedError,
    WorkerTimeoutError,
)


@contextmanager
def bounded(mebibytes: int) -> Iterator[None]:
    """The most memory that this process has held grows by less than that."""
    before_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    yield
    grown_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before_kib
    assert grown_kib < mebibytes << 10


FLOODS = {
    "a line without end": "while True: write(b'x' * (1 << 20))",
    "a message without end": 'write(\'{"message":"Done","number":1,"x":[\')\nwhile True: write(\'[],\' * (1 << 18))',
    "empty lines": "while True: write(b'\\n' * (1 << 20))",
    "short lines": "while True: write(b'ab\\n' * (1 << 20))",
    "wide characters": "while True: write('\\U0001f600'.encode() * (1 << 18))",
}


@pytest.mark.parametrize("body", FLOODS.values(), ids=FLOODS)
def test_a_flood_is_told_and_takes_little_memory(tmp_path: Path, body: str) -> None:
    """Asked or not: lines that nobody wants yet wait in memory too."""
    with started(impostor(tmp_path, f"hello()\n{body}\nsignal.pause()")) as worker, bounded(100):
        worker._reader.join(LATE_S)
        assert not worker._reader.is_alive()
        with pytest.raises(
            WorkerDiedError, match="it flooded the pipe: more than 4 MiB without an answer in it"
        ):
            worker.ask(Release(0), LATE_S)


def test_signs_of_life_without_end_are_a_flood(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "MOST_PHASES", 1000)
    python = impostor(
        tmp_path,
        """
        hello()
        number = next(commands())["number"]
        while True:
            reply("Phase", number, name="compiling")
        """,
    )
    with (
        started(python) as worker,
        bounded(50),
        pytest.raises(WorkerDiedError, match=r"1000 signs of life and no answer|more than 4 MiB"),
    ):
        worker.ask(Release(0), LATE_S)


def test_the_longest_answer_is_no_flood(tmp_path: Path) -> None:
    python = impostor(
        tmp_path,
        f"""
        hello()
        for command in commands():
            reply("Failed", command["number"], status="error", reason="x" * {MOST_LINE - 100})
        """,
    )
    with started(python) as worker:
        for _ in range(3):
            answer = worker.ask(Release(0), LATE_S)
            assert answer == Failed("error", "x" * (MOST_LINE - 100))


DEADLY = [
    number
    for number in range(1, signal.NSIG)
    if number in signal.valid_signals()
    and number not in (signal.SIGCHLD, signal.SIGCONT, signal.SIGURG, signal.SIGWINCH)
    and number not in (signal.SIGSTOP, signal.SIGTSTP, signal.SIGTTIN, signal.SIGTTOU)
]


def test_every_signal_that_ends_a_worker_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    known = {one.value: one.name for one in signal.Signals}
    python = shell(
        tmp_path, "ulimit -c 0", HELLO, 'read line; echo "about to die" >&2; kill -$NUMBER $$; read line'
    )
    for number in DEADLY:
        monkeypatch.setenv("NUMBER", str(number))
        with started(python) as worker, pytest.raises(WorkerDiedError) as raised:
            worker.ask(Release(0), LATE_S)
        name = known.get(number, f"signal {number}")
        if number == signal.SIGKILL:
            name += " (killed from outside; most likely by the kernel because memory ran out)"
        if number == signal.SIGXCPU:
            name += " (all of the CPU time that it may take, see `ulimit -t`, was spent)"
        assert str(raised.value) == f"{name}: about to die"


LIMITED = """
import resource, sys, time
from membound.bench.protocol.messages import Release
from membound.bench.protocol.process import Worker, WorkerDiedError
most_s = int(time.process_time()) + 2
resource.setrlimit(resource.RLIMIT_CPU, (most_s, most_s))
with Worker(1, sys.argv[1]) as worker:
    worker.greet()
    try:
        worker.ask(Release(0), 60.0)
    except WorkerDiedError as error:
        print(error)
"""
"""A harness with a limit of CPU time, which its worker has too."""


@pytest.mark.parametrize(
    ("ending", "why"),
    [
        ("while :; do :; done", "all of the CPU time that it may take, see `ulimit -t`, was spent"),
        ("kill -KILL $$", "killed from outside; most likely by the kernel because memory ran out"),
    ],
)
def test_a_limit_of_cpu_time_is_no_lack_of_memory(tmp_path: Path, ending: str, why: str) -> None:
    python = shell(tmp_path, "ulimit -c 0", HELLO, "read line", ending)
    done = subprocess.run([sys.executable, "-c", LIMITED, python], capture_output=True, text=True, check=True)
    assert done.stdout == f"SIGKILL ({why})\n"


@pytest.mark.parametrize(
    ("ending", "told"),
    [
        ("exit 0", "exit status 0"),
        ("exit 3", "exit status 3"),
        ("echo licence server not found >&2; exit 3", "exit status 3: licence server not found"),
        ("printf 'last \\377 words' >&2; exit 1", "exit status 1: last \ufffd words"),
    ],
)
def test_the_last_words_are_told(tmp_path: Path, ending: str, told: str) -> None:
    with started(shell(tmp_path, HELLO, "read line", ending)) as worker:
        with pytest.raises(WorkerDiedError) as raised:
            worker.ask(Release(0), LATE_S)
        assert str(raised.value) == told


def test_last_words_are_short_however_much_was_said(tmp_path: Path) -> None:
    python = impostor(tmp_path, "hello(); next(commands()); sys.stderr.write('x' * 1_000_000); sys.exit(1)")
    with started(python) as worker, pytest.raises(WorkerDiedError, match=r"^exit status 1: x{300}$"):
        worker.ask(Release(0), LATE_S)


def test_its_last_answer_counts_though_it_died_of_it(tmp_path: Path) -> None:
    python = impostor(
        tmp_path, "hello(); reply('Done', next(commands())['number']); os.kill(os.getpid(), signal.SIGKILL)"
    )
    with started(python) as worker:
        assert worker.ask(Release(0), LATE_S) == Done()
        with pytest.raises(WorkerDiedError, match="SIGKILL"):
            worker.ask(Release(0), LATE_S)


def test_a_child_that_holds_the_pipe_does_not_hide_the_death(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(process, "PIPE_GRACE_S", SOON_S)
    python = impostor(
        tmp_path,
        """
        hello()
        next(commands())
        child = os.fork()
        if not child:
            signal.pause()
        open(sys.argv[0] + ".child", "w").write(str(child))
        os.kill(os.getpid(), signal.SIGKILL)
        """,
    )
    with started(python) as worker, pytest.raises(WorkerDiedError, match="SIGKILL"):
        worker.ask(Release(0), LATE_S)
    assert gone(int(Path(python + ".child").read_text(encoding="utf-8")))


def test_a_hang_is_ended_with_all_that_it_started(tmp_path: Path) -> None:
    python = impostor(
        tmp_path,
        """
        hello()
        next(commands())
        child = os.fork()
        if child:
            open(sys.argv[0] + ".child", "w").write(str(child))
            reply("Phase", 1, name="timing")
        signal.pause()
        """,
    )
    seen: list[str] = []
    with started(python) as worker, pytest.raises(WorkerTimeoutError):
        worker.ask(Release(0), LATE_S, lambda phase: seen.append(phase.name) or leave())
    assert seen == ["timing"]
    assert gone(int(Path(python + ".child").read_text(encoding="utf-8")))


def leave() -> None:
    raise WorkerTimeoutError
