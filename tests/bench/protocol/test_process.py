"""A worker from outside: whatever it does, the harness waits no longer than it said, holds little, and says what happened."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import pytest
from impostors import HELLO, impostor, shell
from processes import LATE_S, SOON_S, gone, started

from membound.bench.machine.environment import (
    BLAS_TIMEOUT,
    POLICY_VARIABLES,
    SPIN_COUNT,
    recorded,
    worker_environment,
)
from membound.bench.protocol.messages import (
    PROTOCOL,
    AskOffers,
    Done,
    Failed,
    MeasureMachine,
    Phase,
    Release,
    TakeTurn,
)
from membound.bench.protocol.process import (
    Worker,
    WorkerDiedError,
    WorkerTimeoutError,
    WorkerUnavailableError,
)


def test_thread_counts_are_set_and_spinning_policies_are_not() -> None:
    base = {"PATH": "/bin", "OMP_NUM_THREADS": "64"} | dict.fromkeys(POLICY_VARIABLES, "active")
    got = worker_environment(3, base)
    assert got["PATH"] == "/bin"
    assert (got["OMP_NUM_THREADS"], got["NUMBA_NUM_THREADS"], got["MKL_NUM_THREADS"]) == ("3", "3", "3")
    assert not set(POLICY_VARIABLES) & set(got)
    assert got["GOMP_SPINCOUNT"] == str(SPIN_COUNT)
    assert got["OPENBLAS_THREAD_TIMEOUT"] == str(BLAS_TIMEOUT)
    assert got["TORCHINDUCTOR_CPP_CACHE_PRECOMPILE_HEADERS"] == "0"


# A conversation


def test_commands_are_answered_in_turn_with_their_phases(tmp_path: Path) -> None:
    python = impostor(
        tmp_path,
        """
        hello()
        for command in commands():
            for phase in ("preparing", "checking")[:command["contestant"]]:
                reply("Phase", command["number"], name=phase, contestants=[7])
            reply("Failed", command["number"], status="error", reason=json.dumps(command))
        """,
    )
    with started(python) as worker:
        for number, contestant in enumerate((2, 0, 1), start=1):
            seen: list[Phase] = []
            answer = worker.ask(TakeTurn(contestant, passed_bytes=5), LATE_S, seen.append)
            assert isinstance(answer, Failed)
            asked = json.loads(answer.reason)
            assert (
                asked.items() >= {"message": "TakeTurn", "number": number, "contestant": contestant}.items()
            )
            assert seen == [Phase("preparing", [7]), Phase("checking", [7])][:contestant]


def test_it_is_asked_to_run_the_worker_with_its_threads_and_no_module_of_the_folder(tmp_path: Path) -> None:
    python = impostor(
        tmp_path,
        """
        hello()
        for command in commands():
            told = [*sys.argv[1:], os.environ["OMP_NUM_THREADS"], str(os.getpid() == os.getsid(0))]
            reply("Failed", command["number"], status="error", reason=" ".join(told))
        """,
    )
    with Worker(3, python) as worker:
        worker.greet(LATE_S)
        answer = worker.ask(Release(0), LATE_S)
    assert answer == Failed("error", "-P -m membound.bench.worker 3 3 True")


def test_it_is_told_to_end_and_what_it_will_not_do_is_done_for_it(tmp_path: Path) -> None:
    obeys = impostor(
        tmp_path,
        """
        hello()
        command = next(commands())
        open(sys.argv[0] + ".told", "w").write(command["message"])
        reply("Done", command["number"])
        """,
    )
    with started(obeys) as worker:
        worker.close(LATE_S)
    assert Path(obeys + ".told").read_text(encoding="utf-8") == "Close"
    for refuses in ("signal.pause()", "reply('Phase', 1, name='closing'); signal.pause()", "sys.exit(5)"):
        with started(impostor(tmp_path, f"hello(); next(commands()); {refuses}")) as worker:
            worker.close(SOON_S)


# It never becomes a worker


def test_one_that_is_not_there_cannot_be_started(tmp_path: Path) -> None:
    with pytest.raises(WorkerUnavailableError, match=r"nowhere cannot be started: No such file or directory"):
        Worker(1, str(tmp_path / "nowhere")).__enter__()
    with pytest.raises(WorkerUnavailableError, match=r"cannot be started: Permission denied"):
        Worker(1, str(tmp_path)).__enter__()


@pytest.mark.parametrize(
    ("lines", "why"),
    [
        (("exit 0",), "it ended without a word; is it a Python with membound?"),
        (("exit 3",), "exit status 3"),
        (("echo 'No module named membound' >&2", "exit 1"), "No module named membound"),
        (("echo first >&2", "echo last >&2", "echo >&2", "exit 1"), "last"),
        (("echo hello", "exit 0"), "it ended without a word; is it a Python with membound?"),
    ],
)
def test_one_that_ends_without_a_greeting_is_no_interpreter_of_ours(
    tmp_path: Path, lines: tuple[str, ...], why: str
) -> None:
    python = shell(tmp_path, *lines)
    with Worker(1, python) as worker, pytest.raises(WorkerUnavailableError) as raised:
        worker.greet(LATE_S)
    assert str(raised.value) == f"{python} cannot run a worker: {why}"


def test_one_that_is_killed_before_it_greets_has_died(tmp_path: Path) -> None:
    with (
        Worker(1, shell(tmp_path, "kill -SEGV $$")) as worker,
        pytest.raises(WorkerDiedError, match="SIGSEGV"),
    ):
        worker.greet(LATE_S)


@pytest.mark.parametrize(
    "body", ["signal.pause()", "write('almost a line'); signal.pause()", "write('a line\\n'); signal.pause()"]
)
def test_one_that_never_greets_is_not_waited_for(tmp_path: Path, body: str) -> None:
    python = impostor(tmp_path, body)
    with Worker(1, python) as worker, pytest.raises(WorkerTimeoutError, match="no word of membound for 0 s"):
        worker.greet(SOON_S)
    assert gone(worker.pid)


def test_one_that_talks_for_ever_and_never_greets_is_not_listened_to_for_ever(tmp_path: Path) -> None:
    python = impostor(tmp_path, "while True: write('conda activated\\n')")
    with (
        Worker(1, python) as worker,
        pytest.raises((WorkerTimeoutError, WorkerDiedError), match=r"no word of membound|flooded"),
    ):
        worker.greet(SOON_S)


def test_talk_before_the_greeting_is_passed_by(tmp_path: Path) -> None:
    talk = (
        "echo conda activated",
        "printf '\\377\\n'",
        "echo 5",
        "echo '{}'",
        "echo '{\"message\":[]}'",
        "echo",
    )
    wrapper = shell(tmp_path, *talk, HELLO, "read line", 'echo \'{"message":"Done","number":1}\'')
    with started(wrapper) as worker:
        assert worker.ask(Release(0), LATE_S) == Done()


@pytest.mark.parametrize(
    "greeting",
    [
        {"python": "3", "protocol": PROTOCOL + 1},
        {"protocol": PROTOCOL + 1},
        {"python": "3", "protocol": PROTOCOL + 1, "membound": "2.0", "new": [1]},
    ],
)
def test_another_protocol_is_told_whatever_else_it_says(tmp_path: Path, greeting: dict[str, object]) -> None:
    line = json.dumps({"message": "Hello", "number": 0} | greeting)
    python = shell(tmp_path, f"echo '{line}'", "read line")
    with Worker(1, python) as worker, pytest.raises(WorkerUnavailableError) as raised:
        worker.greet(LATE_S)
    assert str(raised.value) == (
        f"the membound of {python} speaks protocol {PROTOCOL + 1}, this one {PROTOCOL}: install this version there"
    )


# It breaks the protocol


@pytest.mark.parametrize(
    ("body", "told"),
    [
        ("reply('Done', 2)", "Done answers command 2, not 1"),
        ("reply('Done', 0)", "Done answers command 0, not 1"),
        ("reply('Phase', 2, name='timing')", "Phase answers command 2, not 1"),
        ("write('oops\\n')", r"'oops' is no message"),
        ("write('\\n')", r"'' is no message"),
        ("write(b'\\xff\\xfe\\n')", "is no message"),
        ('write(\'{"message": ["Done"], "number": 1}\\n\')', "is no message"),
        ("reply('Dance', 1)", "is no message"),
        ("reply('Release', 1, contestant=0)", "is no message"),
        ("reply('Done', 1, extra=1)", "Done: unknown field 'extra'"),
        ("reply('Failed', 1, status='error')", "Failed: no field 'reason'"),
        ("reply('Failed', 1, status='error', reason=None)", "Failed: reason=None is not text"),
        ('write(\'{"message":"Failed","number":1,"status":"wrong","reason":"","error":NaN}\\n\')', "NaN"),
    ],
)
def test_what_is_no_answer_ends_the_conversation(tmp_path: Path, body: str, told: str) -> None:
    python = impostor(tmp_path, f"hello(); next(commands()); {body}; signal.pause()")
    with started(python) as worker, pytest.raises(WorkerDiedError, match=f"^it broke the protocol: .*{told}"):
        worker.ask(Release(0), LATE_S)


def test_a_second_answer_is_told_at_the_next_command(tmp_path: Path) -> None:
    python = impostor(
        tmp_path,
        """
        hello()
        for command in commands():
            reply("Done", command["number"])
            reply("Done", command["number"])
        """,
    )
    with started(python) as worker:
        assert worker.ask(Release(0), LATE_S) == Done()
        with pytest.raises(WorkerDiedError, match="Done answers command 1, not 2"):
            worker.ask(Release(0), LATE_S)


def test_an_answer_before_the_question_is_no_answer(tmp_path: Path) -> None:
    python = impostor(tmp_path, "hello(); reply('Done', 0); signal.pause()")
    with started(python) as worker, pytest.raises(WorkerDiedError, match="Done answers command 0, not 1"):
        worker.ask(Release(0), LATE_S)


# It hangs


@pytest.mark.parametrize(
    "body",
    [
        "next(commands()); signal.pause()",
        'next(commands()); write(\'{"message":"Done"\'); signal.pause()',
        "next(commands()); reply('Phase', 1, name='timing'); signal.pause()",
        "os.kill(os.getpid(), signal.SIGSTOP)",
        "signal.signal(signal.SIGTERM, signal.SIG_IGN); next(commands())\nwhile True: pass",
    ],
)
def test_silence_has_a_limit_in_any_command(tmp_path: Path, body: str) -> None:
    python = impostor(tmp_path, f"hello(); {body}")
    with started(python) as worker, pytest.raises(WorkerTimeoutError, match="silent for 0 s"):
        worker.ask(MeasureMachine(True), SOON_S)


def test_a_worker_that_does_not_read_is_not_written_to_for_ever(tmp_path: Path) -> None:
    """A pipe holds 64 KiB: a longer command waits for its reader."""
    python = impostor(tmp_path, "hello(); signal.pause()")
    with started(python) as worker, pytest.raises(WorkerTimeoutError, match="took no command for 0 s"):
        worker.ask(AskOffers({"1": ["x" * 1000] * 1000}), SOON_S)


def test_a_command_longer_than_the_pipe_arrives_whole(tmp_path: Path) -> None:
    asked = {str(i): ["é" * 1000] * 10 for i in range(20)}
    python = impostor(
        tmp_path,
        """
        hello()
        for command in commands():
            reply("Failed", command["number"], status="error", reason=str(len(str(command["asked"]))))
        """,
    )
    with started(python) as worker:
        assert worker.ask(AskOffers(asked), LATE_S) == Failed("error", str(len(str(asked))))


def test_signs_of_life_extend_the_wait(tmp_path: Path) -> None:
    """A limit is of silence: it takes three phases of nearly the limit each."""
    now = [0.0]

    class Slow:
        def put(self, line: None) -> None: ...

        def get(self, timeout: float) -> str:
            assert timeout == 10.0
            now[0] += 9.0
            name = "Phase" if now[0] < 30 else "Done"
            fields = {"name": "compiling"} if name == "Phase" else {}
            return json.dumps({"message": name, "number": 1} | fields) + "\n"

    with started(impostor(tmp_path, "hello(); signal.pause()")) as worker:
        worker._lines = Slow()  # type: ignore[assignment]
        assert worker.ask(Release(0), 10.0) == Done()
    assert now[0] == 36.0


def test_nothing_is_left_open(tmp_path: Path) -> None:
    def held() -> int:
        return len(os.listdir("/proc/self/fd"))

    python = shell(tmp_path, HELLO, "read line")
    before = held()
    for _ in range(3):
        with started(python):
            assert held() > before
    assert held() == before


def test_the_interpreter_is_this_one_unless_another_is_named() -> None:
    assert Worker(1)._python == sys.executable


# The environment


def test_what_changes_figures_is_in_the_row_and_no_secret_is() -> None:
    base = {
        **{
            "OMP_STACKSIZE": "1G",
            "LD_PRELOAD": "/lib/libjemalloc.so",
            "ORT_DISABLE_X": "1",
            "PYTHONOPTIMIZE": "2",
        },
        **{"OMP_NUM_THREADS": "64", "OMP_DYNAMIC": "true", "NUMBA_OPT": "0"},
        **{"VLLM_API_KEY": "k", "TORCH_TOKEN": "t", "CUDA_HOME": "/usr", "HOME": "/root", "AWS_SECRET": "s"},
        "GGML_VK": "x" * 999,
        **{"TORCHINDUCTOR_FX_GRAPH_CACHE": "0", "VLLM_DISABLE_COMPILE_CACHE": "True", "LLAMA_CACHE": "a/b"},
        **{"PYTHONDEVMODE": "1", "PYTHONASYNCIODEBUG": "1", "PYTHONTRACEMALLOC": "5", "PYTHONPATH": "/x"},
        **{
            "RAYON_NUM_THREADS": "1",
            "GLOO_SOCKET_IFNAME": "lo",
            "LD_BIND_NOW": "1",
            "ROCM_PATH": "/opt/rocm",
            "LD_LIBRARY_PATH": "/opt/mkl/lib",
            "THP_MEM_ALLOC_ENABLE": "1",
        },
    }
    assert recorded(base) == {
        **{"TORCHINDUCTOR_FX_GRAPH_CACHE": "0", "VLLM_DISABLE_COMPILE_CACHE": "True"},
        **{"PYTHONDEVMODE": "1", "PYTHONASYNCIODEBUG": "1", "PYTHONTRACEMALLOC": "5"},
        **{"RAYON_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo", "LD_BIND_NOW": "1"},
        "GGML_VK": "x" * 200,
        **{"LD_LIBRARY_PATH": "set", "THP_MEM_ALLOC_ENABLE": "1"},
        "LD_PRELOAD": "/lib/libjemalloc.so",
        "OMP_STACKSIZE": "1G",
        "ORT_DISABLE_X": "1",
        "PYTHONOPTIMIZE": "2",
    }
