"""Shared by all tests: threads, set before Numba and the BLAS libraries are loaded; what is left out.

Benchmarks (tests/benchmarks) are collected where they are asked for, by their folder or with --benchmark-only,
and then nothing else is. They run on the physical cores, tests on two at most.
"""

import os
import signal
import tempfile
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parent / "benchmarks"


def only_benchmarks(config: pytest.Config) -> bool:
    """Whether benchmarks are asked for by option."""
    return bool(config.getoption("benchmark_only", False))


def in_benchmarks(path: Path) -> bool:
    """Whether a path is the folder of the benchmarks or below it."""
    return path == BENCHMARKS or BENCHMARKS in path.parents


def pytest_configure(config: pytest.Config) -> None:
    """Set the threads of every pool; let signals end what tests start, in the background and under nohup too."""
    from membound.bench.machine.fingerprint import default_threads

    named = any(in_benchmarks(Path(arg.partition("::")[0]).resolve()) for arg in config.args)
    threads = default_threads() if named or only_benchmarks(config) else min(2, os.cpu_count() or 1)
    for name in ("NUMBA_NUM_THREADS", "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        os.environ.setdefault(name, str(threads))
    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:  # as shells start what runs in the background
        signal.signal(signal.SIGINT, signal.default_int_handler)
    for ignored in (signal.SIGQUIT, signal.SIGHUP):  # by such shells, and by nohup
        if signal.getsignal(ignored) == signal.SIG_IGN:
            signal.signal(ignored, signal.SIG_DFL)


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Leave the benchmarks out of a run of the tests, and the tests out of a run of the benchmarks."""
    if only_benchmarks(config):
        other = collection_path.is_file() and not in_benchmarks(collection_path)
        return True if other else None
    named = any(in_benchmarks(Path(arg.partition("::")[0]).resolve()) for arg in config.args)
    return True if collection_path == BENCHMARKS and not named else None


OTHER_SETS = "other_instruction_sets"
LOGS = pytest.StashKey["tempfile.TemporaryDirectory[str]"]()


def is_whole(config: pytest.Config) -> bool:
    """Whether neither files nor marks nor words of names were given."""
    given = config.option.markexpr or config.option.keyword
    return config.args_source is pytest.Config.ArgsSource.TESTPATHS and not given


def pytest_collection_finish(session: pytest.Session) -> None:
    """Start the tests of other instruction sets beside this session, if it will ask for them, and what compiles ahead."""
    import instruction_sets

    others = any(OTHER_SETS in getattr(item, "fixturenames", ()) for item in session.items)
    ahead = is_whole(session.config) and not only_benchmarks(session.config)
    idle = session.config.option.collectonly or instruction_sets.CHILD in os.environ
    if (others or ahead) and not idle:
        logs = session.config.stash[LOGS] = tempfile.TemporaryDirectory()
        started = instruction_sets.start(Path(logs.name), others, ahead)
        session.config.stash[instruction_sets.CHILDREN] = started


def pytest_unconfigure(config: pytest.Config) -> None:
    """End what is still running."""
    if LOGS in config.stash:
        import instruction_sets

        for process in config.stash[instruction_sets.CHILDREN].values():
            process.kill()
            process.wait()
        config.stash[LOGS].cleanup()


@pytest.fixture
def other_instruction_sets(request: pytest.FixtureRequest):
    """The processes that were started, and the folder of what they print."""
    import instruction_sets

    return request.config.stash[instruction_sets.CHILDREN], Path(request.config.stash[LOGS].name)


LEFT_OUT = pytest.StashKey[dict[str, int]]()
ENGINE = "vllm"
SLOW = "slow"


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Tests that need what is not installed are skipped with the command that would install it; tests of the
    real engine run only if they are asked for, and slow ones unless the whole suite is run."""
    compiled = [item for item in items if item.get_closest_marker("cuda_compile")]
    if compiled:
        import sass

        missing = sass.missing()
        reason = f"no {missing[0]}: pip install -e '.[cuda-compile]'" if missing else ""
        for item in compiled if missing else ():
            item.add_marker(pytest.mark.skip(reason=reason))
    on_gpus = [item for item in items if item.get_closest_marker("gpu")]
    if on_gpus:
        import gpus

        why_none = gpus.why_none()
        for item in on_gpus if why_none else ():
            item.add_marker(pytest.mark.skip(reason=why_none))
    left_out = config.stash[LEFT_OUT] = {}
    for mark, is_left_out in ((ENGINE, ENGINE not in config.option.markexpr), (SLOW, is_whole(config))):
        marked = [item for item in items if item.get_closest_marker(mark)] if is_left_out else []
        items[:] = [item for item in items if item not in marked]
        config.hook.pytest_deselected(items=marked)
        left_out[mark] = len(marked)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Say which tests were left out, and how to run them."""
    left_out = config.stash.get(LEFT_OUT, {})
    if count := left_out.get(ENGINE):
        terminalreporter.line(
            f"{count} tests of the real engine were left out: membound env create vllm && pytest -m vllm"
        )
    if count := left_out.get(SLOW):
        terminalreporter.line(f"{count} slow tests were left out: pytest -m slow")


@pytest.fixture(autouse=True)
def no_environments_of_the_user(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the user made with `membound env create` must not change what tests find."""
    if not request.node.get_closest_marker(ENGINE):
        monkeypatch.setenv("MEMBOUND_ENVIRONMENTS", str(tmp_path_factory.getbasetemp() / "no-environments"))


@pytest.fixture
def workers(monkeypatch: pytest.MonkeyPatch):
    """Workers that answer at once, in place of all that a run starts: see fake_workers.py."""
    import fake_workers

    return fake_workers.install(monkeypatch)
