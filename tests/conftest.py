"""Shared by all tests: threads, set before Numba and the BLAS libraries are loaded; what is left out.

Benchmarks (tests/benchmarks) are collected where they are asked for, by their folder or with --benchmark-only,
and then nothing else is. They run on the physical cores, tests on two at most.
"""

import gc
import importlib.util
import os
import shutil
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

BENCHMARKS = Path(__file__).parent / "benchmarks"
FSYNC = os.fsync
BYTECODE = pytest.StashKey["tempfile.TemporaryDirectory[str]"]()
LEFT_OUT = pytest.StashKey[dict[str, int]]()
ENVIRONMENTS = pytest.StashKey[str | None]()
NO_ENVIRONMENTS = str(Path(__file__).parent / "no-environments")
"""A folder that is not there."""
ENGINE = "vllm"
RAY = "ray"
SLOW = "slow"


def only_benchmarks(config: pytest.Config) -> bool:
    """Whether benchmarks are asked for by option."""
    return bool(config.getoption("benchmark_only", False))


def in_benchmarks(path: Path) -> bool:
    """Whether a path is the folder of the benchmarks or below it."""
    return path == BENCHMARKS or BENCHMARKS in path.parents


def pytest_configure(config: pytest.Config) -> None:
    """Set the threads of every pool; let signals end what tests start, in the background and under nohup too.

    Until all is collected no garbage is: a quarter of the time of collecting tests was spent in looking for some.
    """
    gc.disable()
    from membound.bench.machine.fingerprint import default_threads

    named = any(in_benchmarks(Path(arg.partition("::")[0]).resolve()) for arg in config.args)
    threads = default_threads() if named or only_benchmarks(config) else min(2, os.cpu_count() or 1)
    for name in ("NUMBA_NUM_THREADS", "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        os.environ.setdefault(name, str(threads))
    if not (named or only_benchmarks(config)):
        # Sessions share the cores: a thread that spins holds up the one that it waits for, a launch of 0.1 ms takes 3 ms
        os.environ.setdefault("OMP_WAIT_POLICY", "passive")
        os.fsync = _no_wait_for_the_disk
    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:  # as shells start what runs in the background
        signal.signal(signal.SIGINT, signal.default_int_handler)
    for ignored in (signal.SIGQUIT, signal.SIGHUP):  # by such shells, and by nohup
        if signal.getsignal(ignored) == signal.SIG_IGN:
            signal.signal(ignored, signal.SIG_DFL)


def _no_wait_for_the_disk(descriptor: Any) -> None:
    """What a test writes need not outlive a power failure; bad descriptors are refused as ever."""
    os.fstat(descriptor)


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Leave the benchmarks out of a run of the tests, and the tests out of a run of the benchmarks."""
    if only_benchmarks(config):
        other = collection_path.is_file() and not in_benchmarks(collection_path)
        return True if other else None
    named = any(in_benchmarks(Path(arg.partition("::")[0]).resolve()) for arg in config.args)
    return True if collection_path == BENCHMARKS and not named else None


def is_whole(config: pytest.Config) -> bool:
    """Whether neither files nor marks nor words of names were given."""
    given = config.option.markexpr or config.option.keyword
    return config.args_source is pytest.Config.ArgsSource.TESTPATHS and not given


def is_shared(config: pytest.Config) -> bool:
    """Whether this process is one of several that share a session."""
    return hasattr(config, "workerinput")


@pytest.hookimpl(tryfirst=True)  # before pytest-xdist reads its options
def pytest_cmdline_main(config: pytest.Config) -> None:
    """Share the session out among the cores if nothing is named, or the slow tests are, and if nobody looks on."""
    option = config.option
    all_slow = config.args_source is pytest.Config.ArgsSource.TESTPATHS and SLOW in option.markexpr.split()
    long = config.pluginmanager.hasplugin("xdist") and (is_whole(config) or all_slow)
    looks_on = option.usepdb or option.trace or option.capture == "no" or option.collectonly
    if long and not looks_on and not only_benchmarks(config) and not is_shared(config):
        import sharing

        if option.numprocesses is None and sharing.processes() > 1:
            option.numprocesses = sharing.processes()


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: Any) -> None:
    """Make a folder for bytecode where Python may not write it beside the sources.

    Tests start hundreds of processes, and half of what most of them do would be to compile the same modules again.
    """
    if os.environ.get("PYTHONDONTWRITEBYTECODE"):
        if BYTECODE not in node.config.stash:
            node.config.stash[BYTECODE] = tempfile.TemporaryDirectory(prefix="membound-tests-")
        node.workerinput["bytecode"] = node.config.stash[BYTECODE].name


def pytest_collection_finish(session: pytest.Session) -> None:
    """Have the processes that tests start use that folder; this one has found its modules where they lie.

    What has been loaded and collected stays to the end: a collection, which every burst of measurements and the end of
    every worker in this process ask for, would walk through all of it for most of a second.
    """
    gc.collect()
    gc.freeze()
    gc.enable()
    if is_shared(session.config) and "bytecode" in session.config.workerinput:
        os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
        os.environ["PYTHONPYCACHEPREFIX"] = session.config.workerinput["bytecode"]


def pytest_unconfigure(config: pytest.Config) -> None:
    """Remove that folder, and give the disk its time again."""
    os.fsync = FSYNC
    if BYTECODE in config.stash:
        config.stash[BYTECODE].cleanup()


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: object) -> object:
    """By file, in the order of the files."""
    import sharing

    config.option.loadscopereorder = False
    return sharing.ByFile(config, log)


def pytest_sessionstart(session: pytest.Session) -> None:
    """Let pytest in the processes that tests start know nothing of this session's processes."""
    session.config.stash[ENVIRONMENTS] = os.environ.get("MEMBOUND_ENVIRONMENTS")
    if is_shared(session.config):
        for name in [name for name in os.environ if name.startswith("PYTEST_XDIST")]:
            del os.environ[name]


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Report what was left out to the process that prints the summary."""
    if is_shared(session.config):
        session.config.workeroutput["left_out"] = session.config.stash.get(LEFT_OUT, {})


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    """Take that report; all of them say the same."""
    node.config.stash[LEFT_OUT] = getattr(node, "workeroutput", {}).get("left_out", {})


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Tests that need what is not installed are skipped with the command that would install it; tests of the real
    engine and of Ray run only if they are asked for, and slow ones unless the whole suite is run."""
    compiled = [item for item in items if item.get_closest_marker("cuda_compile")]
    if compiled:
        import sass

        missing = sass.missing()
        reason = f"no {missing[0]}: pip install -e '.[cuda-compile]'" if missing else ""
        for item in compiled if missing else ():
            item.add_marker(pytest.mark.skip(reason=reason))
    if importlib.util.find_spec(RAY) is None:
        for item in items:
            if item.get_closest_marker(RAY):
                item.add_marker(pytest.mark.skip(reason="no Ray: pip install -e '.[ray]'"))
    on_gpus = [item for item in items if item.get_closest_marker("gpu")]
    if on_gpus:
        import gpus

        why_none = gpus.why_none()
        for item in on_gpus if why_none else ():
            item.add_marker(pytest.mark.skip(reason=why_none))
    left_out = config.stash[LEFT_OUT] = {}
    unasked = [(mark, mark not in config.option.markexpr) for mark in (ENGINE, RAY)]
    for mark, is_left_out in (*unasked, (SLOW, is_whole(config))):
        kept: list[pytest.Item] = []
        marked: list[pytest.Item] = []
        for item in items:
            (marked if is_left_out and item.get_closest_marker(mark) else kept).append(item)
        items[:] = kept
        config.hook.pytest_deselected(items=marked)
        left_out[mark] = len(marked)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Say which tests were left out, and how to run them."""
    left_out = config.stash.get(LEFT_OUT, {})
    if count := left_out.get(ENGINE):
        terminalreporter.line(
            f"{count} tests of the real engine were left out: membound env create vllm && pytest -m vllm"
        )
    if count := left_out.get(RAY):
        terminalreporter.line(
            f"{count} tests on Ray clusters were left out: pip install -e '.[ray]' && pytest -m ray"
        )
    if count := left_out.get(SLOW):
        terminalreporter.line(f"{count} slow tests were left out: pytest -m slow")


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """What the user made with `membound env create` must not change what tests find, but those of the real engine.

    A fixture for it would take a tenth of the time of a test that does next to nothing.
    """
    of_the_user = item.get_closest_marker(ENGINE) is not None
    environments = item.config.stash[ENVIRONMENTS] if of_the_user else NO_ENVIRONMENTS
    if environments is None:
        os.environ.pop("MEMBOUND_ENVIRONMENTS", None)
    else:
        os.environ["MEMBOUND_ENVIRONMENTS"] = environments


@pytest.fixture
def workers(monkeypatch: pytest.MonkeyPatch):
    """Workers that answer at once, in place of all that a run starts: see fake_workers.py."""
    import fake_workers

    return fake_workers.install(monkeypatch)


@pytest.fixture
def anywhere() -> Iterator[Path]:
    """A folder that others may enter, as they may not enter pytest's."""
    folder = Path(tempfile.mkdtemp(dir="/tmp"))
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)
