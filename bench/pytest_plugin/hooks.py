"""membound inside pytest: the fixture `bandwidth_benchmark` on top of pytest-benchmark's `benchmark`.

    def test_my_product(bandwidth_benchmark):
        inputs = bandwidth_benchmark.inputs("linear:n=4096,k=4096,weight=f32")
        sets = [(inputs.x, inputs.weight(slot).values.T) for slot in range(inputs.slots)]
        bandwidth_benchmark(np.matmul, sets, inputs=inputs)

pytest imports this module whenever it starts, in every project of the environment: nothing but pytest and the
standard library is imported at the top, and nothing is measured before a test asks for the fixture.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Generator, Sequence
from importlib.machinery import ModuleSpec, PathFinder
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from membound.backends.api import Device
    from membound.bench.measure.ceiling_process import CeilingProcess
    from membound.bench.pytest_plugin.ceilings import SessionCeilings
    from membound.bench.pytest_plugin.fixture import BandwidthBenchmark, Table
    from membound.results.row import Row

TABLE: pytest.StashKey[Table] = pytest.StashKey()
STORED: pytest.StashKey[list[Row]] = pytest.StashKey()
PLAYING: pytest.StashKey[SessionCeilings] = pytest.StashKey()
NO_CEILINGS = "none"


class _AsWritten:
    """Finds membound's modules before pytest does, which rewrites the asserts of every distribution that has a plugin.

    Ours have none, and each new environment would spend seconds on looking for them.
    """

    @staticmethod
    def find_spec(name: str, path: Sequence[str] | None = None, target: Any = None) -> ModuleSpec | None:
        """The module as Python itself finds it; of others, nothing."""
        return PathFinder.find_spec(name, path, target) if name.startswith("membound.") else None


def pytest_load_initial_conftests(early_config: pytest.Config) -> None:
    """Put that finder before pytest's own, for as long as this session lasts."""
    finder = _AsWritten()
    sys.meta_path.insert(0, finder)

    def remove() -> None:
        if finder in sys.meta_path:  # a session within a test puts back what it found
            sys.meta_path.remove(finder)

    early_config.add_cleanup(remove)


def pytest_addoption(parser: pytest.Parser) -> None:
    """The options of the fixture."""
    group = parser.getgroup("membound")
    group.addoption(
        "--membound-ceilings",
        metavar="RUN",
        default="",
        help="Take the ceilings of `bandwidth_benchmark` from a stored run (a file, `latest`, the start of its "
        f"name) instead of measuring them once; `{NO_CEILINGS}`: go without.",
    )
    group.addoption(
        "--membound-threads",
        metavar="N",
        type=int,
        default=0,
        help="CPU threads of the ceilings; default: those of the stored run, or the physical cores.",
    )


if find_spec("pytest_benchmark"):

    @pytest.fixture
    def bandwidth_benchmark(benchmark: Any, request: pytest.FixtureRequest) -> BandwidthBenchmark:
        """Time any callable cold and compare it with this machine's measured ceilings."""
        from membound.bench.pytest_plugin.fixture import BandwidthBenchmark

        table, config = _table(request.config), request.config
        return BandwidthBenchmark(benchmark, table, _name(request), config, request.path)

else:

    @pytest.fixture
    def bandwidth_benchmark() -> BandwidthBenchmark:
        """Fail and say what is missing."""
        pytest.fail("bandwidth_benchmark needs pytest-benchmark: pip install pytest-benchmark", pytrace=False)


def _name(request: pytest.FixtureRequest) -> str:
    """The test's name; with its file and class where another test of the session has the same."""
    name: str = request.node.name
    return name if sum(item.name == name for item in request.session.items) == 1 else request.node.nodeid


def pytest_configure(config: pytest.Config) -> None:
    """Read what the options name, so that a wrong one is refused before anything runs. Raises UsageError."""
    name, threads = config.getoption("membound_ceilings"), config.getoption("membound_threads")
    if name in ("", NO_CEILINGS) and not threads:
        return
    from membound.backends.api import MemboundError
    from membound.bench.planning.choice import check_threads

    try:
        config.stash[STORED] = _stored(name) if name not in ("", NO_CEILINGS) else []
        check_threads(threads or None)
    except MemboundError as error:
        raise pytest.UsageError(str(error)) from None


def _stored(name: str) -> list[Row]:
    """The ceilings of a stored run of this processor. Raises UsageError, StoreError, RowError."""
    from membound.bench.machine.fingerprint import fingerprint
    from membound.results.stored_runs import rows_of

    found = [row for row in rows_of(name) if row.kind == "ceiling"]
    if not found:
        raise pytest.UsageError(f"--membound-ceilings {name}: that run measured no ceilings")
    here, there = fingerprint()["cpu"], found[0].machine.get("cpu")
    if here != there:
        raise pytest.UsageError(f"--membound-ceilings {name}: measured on {there}, this is {here}")
    return found


def _table(config: pytest.Config) -> Table:
    """The session's table, made at the first use."""
    if TABLE not in config.stash:
        from dataclasses import replace

        from membound.bench.machine.fingerprint import default_threads, fingerprint
        from membound.bench.machine.secrets import command_line
        from membound.bench.pytest_plugin.ceilings import SessionCeilings
        from membound.bench.pytest_plugin.fixture import Table
        from membound.results.store import new_run_id

        machine = fingerprint()
        run_id = new_run_id(str(machine["cpu"]))
        stored = config.stash.get(STORED, [])
        known = max((row.threads for row in stored), default=0)
        threads: int = config.getoption("membound_threads") or known or default_threads()

        measured = SessionCeilings(run_id, threads, lambda what: _tell(config, what))
        config.stash[PLAYING] = measured

        def ceilings(device: Device) -> tuple[list[Row], CeilingProcess | None]:
            if config.getoption("membound_ceilings"):
                return [replace(r, run_id=run_id, config=r.config | {"from": r.run_id}) for r in stored], None
            return measured.of(device)

        command = command_line(["pytest", *config.invocation_params.args])
        config.stash[TABLE] = Table(run_id, threads, command, ceilings, machine)
    return config.stash[TABLE]


def _tell(config: pytest.Config, what: str) -> None:
    """Say what is measured once a session, and takes some seconds."""
    reporter = config.pluginmanager.getplugin("terminalreporter")
    if reporter is not None:
        reporter.write_line(f"\nmembound: measuring the ceilings of {what}, once a session")


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_sessionfinish(session: pytest.Session) -> Generator[None, object, object]:
    """End the processes of the ceilings, before pytest-benchmark, a wrapper too, writes its file."""
    playing: SessionCeilings | None = session.config.stash.get(PLAYING, None)
    if playing is not None:
        session.config.stash[TABLE].close(playing.close())
    return (yield)


@pytest.hookimpl(optionalhook=True)
def pytest_benchmark_update_json(
    config: pytest.Config, benchmarks: Sequence[Any], output_json: dict[str, Any]
) -> None:
    """Store the ceilings in the file of the benchmarks that were compared with them."""
    if TABLE in config.stash:
        from membound.results.exchange.pytest_benchmark import KEY, file_info

        output_json[KEY] = file_info(row for row in config.stash[TABLE].rows if row.kind == "ceiling")


@pytest.hookimpl(trylast=True)
def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Below pytest-benchmark's table: GB/s, shares of the ceilings and verdicts."""
    table = terminalreporter.config.stash.get(TABLE, None)
    if table is None or not table.cases:
        return
    from io import StringIO

    from membound.results.views.console import PlainConsole
    from membound.results.views.table import benchmarks_view
    from membound.results.views.timed import NARROW

    text = StringIO()
    width = max(NARROW, shutil.get_terminal_size().columns)
    PlainConsole(file=text, width=width, force_terminal=False, color_system=None).print(
        benchmarks_view(table.rows)
    )
    terminalreporter.section("membound", sep="-")
    for line in text.getvalue().splitlines():
        terminalreporter.write_line(line.rstrip())
