"""Who may import whom, read from the sources; and what the light commands load, asked of a fresh process."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest
from sources import parsed

ROOT = Path(__file__).parents[2]
FOLDERS = ("kernels", "backends", "results", "bench")
LEAVES = ("deadline", "errors", "no_collections", "spec_text", "version")
"""Modules of the package that import nothing of it."""

ALLOWED = {
    "kernels": {
        *("membound.errors", "membound.kernels", "membound.no_collections", "membound.spec_text"),
        *("numpy", "numba", "llvmlite"),
    },
    "backends": {"membound.backends", "membound.deadline", "membound.errors", "membound.kernels"},
    "results": {
        "membound.errors",
        "membound.results",
        "membound.spec_text",
        "numpy",
        "pandas",
        "rich",
        "scipy",
    },
    "bench": {
        *("membound", "membound.backends", "membound.bench", "membound.kernels", "membound.results"),
        *("membound.deadline", "membound.errors", "membound.no_collections", "membound.spec_text"),
        "membound.version",
        *("numpy", "pandas", "psutil", "rich", "scipy", "typer"),
    },
}
"""Outside the standard library. A backend imports its own runtime besides."""
MORE = {
    "kernels/onnx_file/read.py": {"google", "onnx"},
    "kernels/weights/tensor_files.py": {"safetensors"},
    "kernels/cuda/compile.py": {"cuda"},  # what its assembler raises
    "kernels/cuda/device/driver.py": {"cuda"},
    "kernels/cuda/device/simulator.py": {"greenlet"},
    "bench/fleet/cluster.py": {"ray"},
    "bench/fleet/shipping.py": {"packaging"},
    "bench/machine/nvidia.py": {"pynvml"},
    "bench/machine/amd.py": {"amdsmi"},
    "bench/pytest_plugin/hooks.py": {"pytest"},
    "bench/serving/compiled_reads.py": {"numba"},
    "bench/serving/connection.py": {"httptools"},
    "bench/serving/unpacking.py": {"httptools"},
    "bench/serving/null_server.py": {"httptools"},
    "bench/serving/event_loop.py": {"uvloop"},
    "bench/serving/null_process.py": {"uvloop"},
    "results/exchange/parquet.py": {"pyarrow"},
    "results/exchange/remote_file.py": {"fsspec"},
    "results/report/drawing.py": {"altair", "vl_convert"},
    "results/case_lines.py": {"msgspec"},
    "results/strict_line.py": {"msgspec"},
}

LATE = ("bench",)
"""Folders in which a function may import what imports its module: machine/counters.py the readers of each vendor."""
SHARED_BY_BACKENDS = {
    "membound.backends.api",
    "membound.backends.background",
    "membound.backends.registry",
    "membound.backends.running_threads",
    "membound.backends.serving",
}
PROGRAMS = {"membound.backends.pytorch.rank"}
"""What a backend starts as a process of its own, by name."""
RUNTIMES = ("torch", "onnxruntime", "onnx", "onnxscript", "vllm", "ray", "altair")
"""Libraries that cost a second or a gigabyte: never at the top of a module that the main process imports."""
SLOW = (
    "numba",
    "llvmlite",
    "numpy",
    "pandas",
    "scipy",
    "psutil",
    "pydantic",
    "pydantic_core",
    "rich",
    "pyarrow",
)
"""Libraries that a command needs for its work, or typer for odd values, but not to say what it can do, nor to list devices."""


def sources() -> list[Path]:
    return sorted(path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py"))


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def module_of(path: Path) -> str:
    return "membound." + name_of(path).removesuffix(".py").replace("/", ".")


def imported(path: Path) -> Iterator[tuple[str, ast.stmt]]:
    """Every module that a file imports, anywhere in it, relative imports refused."""
    for node in parsed(path).imports:
        if isinstance(node, ast.Import):
            yield from ((alias.name, node) for alias in node.names)
        else:
            assert node.level == 0, f"{path}: relative import in line {node.lineno}"
            assert node.module
            if node.module in ("membound", *(f"membound.{folder}" for folder in FOLDERS)):
                yield from ((f"{node.module}.{alias.name}", node) for alias in node.names)
            else:
                yield node.module, node


def package(module: str) -> str:
    """``membound.results.row`` is of membound.results, ``numpy.typing`` of numpy."""
    parts = module.split(".")
    inside = parts[0] == "membound" and parts[1:2] and parts[1] in (*FOLDERS, *LEAVES)
    return ".".join(parts[:2]) if inside else parts[0]


def test_folders_are_scanned():
    assert {path.parent.name for path in sources()} >= {*FOLDERS, "cpu", "matmul", "protocol"}


def imported_in_vain(path: Path) -> list[str]:
    """What a file imports and may not."""
    folder = name_of(path).partition("/")[0]
    allowed = ALLOWED[folder] | MORE.get(name_of(path), set())
    found = {package(module) for module, _ in imported(path)} - sys.stdlib_module_names
    if folder == "backends":
        found = {name for name in found if name.partition(".")[0] == "membound"}
    return sorted(found - allowed)


def test_a_file_imports_only_what_its_folder_may():
    found = {name_of(path): imported_in_vain(path) for path in sources()}
    assert len(found) > 400
    assert {name: names for name, names in found.items() if names} == {}


def modules_named(path: Path, anywhere: bool) -> set[str]:
    """Modules that a file imports by either form, anywhere in it or only when it is imported itself."""
    found: set[str] = set()
    for node in parsed(path).imports if anywhere else parsed(path).imports_at_top:
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        else:
            found |= {str(node.module), *(f"{node.module}.{alias.name}" for alias in node.names)}
    return found


def refuse_circles(paths: dict[str, Path], anywhere: bool) -> None:
    """Raise CycleError, with the modules, where one imports itself through others."""
    graph = {module: modules_named(path, anywhere) & set(paths) for module, path in paths.items()}
    TopologicalSorter(graph).prepare()


@pytest.mark.parametrize("folder", FOLDERS)
def test_no_two_modules_import_each_other(folder):
    """Directly or through others. Folders import one way, so that a circle lies within one."""
    paths = {module_of(path): path for path in sources() if name_of(path).startswith(f"{folder}/")}
    refuse_circles(paths, anywhere=folder not in LATE)


def test_a_circle_is_seen(tmp_path):
    sources = {"a": "from b import x", "b": "import c", "c": "def late():\n    from a import y"}
    for name, text in sources.items():
        (tmp_path / name).write_text(text)
    paths = {name: tmp_path / name for name in sources}
    refuse_circles(paths, anywhere=False)
    with pytest.raises(CycleError):
        refuse_circles(paths, anywhere=True)


def test_nothing_imports_bench_but_the_package_itself():
    for path in [*sources(), *(ROOT / "src/membound").glob("*.py")]:
        if ROOT / "bench" not in path.parents and path.parent != ROOT / "src/membound":
            assert not [m for m, _ in imported(path) if m.startswith("membound.bench")], path


def test_backends_do_not_import_each_other():
    """A backend is its entry point's module; the parts of one (torch's decoder) may serve another's export."""
    needs = {
        module_of(path): {m for m, _ in imported(path) if m.startswith("membound.backends.")}
        for path in (ROOT / "backends").rglob("*.py")
    }
    entries = set(entry_modules())
    for module, found in needs.items():
        assert not found & entries, f"{module} imports a backend"
    used, fresh = set(), entries | SHARED_BY_BACKENDS | set(server_modules()) | PROGRAMS
    while fresh:
        used |= fresh
        fresh = {m for module in fresh for m in needs[module]} - used
    assert used == set(needs), f"no backend uses {sorted(set(needs) - used)}"


def server_modules() -> list[str]:
    """Engines that can be started, and the programs that start them: those are named, and imported by nobody."""
    from membound.backends.serving import served_engines

    described = {v.partition(":")[0] for v in entry_points("membound.servers").values()}
    return sorted(described | {engine.program for engine in served_engines()})


def entry_points(group: str) -> dict[str, str]:
    import tomllib

    points: dict[str, str] = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["entry-points"][
        group
    ]
    return points


def entry_modules() -> list[str]:
    return sorted({v.partition(":")[0] for v in entry_points("membound.backends").values()})


def test_every_backend_can_be_loaded_whatever_its_module_is_called():
    """numba-cuda takes imports for its own whose name has ``numba.cuda`` in it, and never returns."""
    from membound.backends import registry

    project = {e for e in registry.entries() if "membound" in registry.load(e).__module__}
    assert {"numba.cpu", "numba.cuda", "numpy", "onnxruntime", "torch", "vllm"} <= project


@pytest.mark.parametrize("entry", entry_modules())
def test_a_backend_imports_no_runtime_at_its_top(entry):
    """Loading the class must be possible without the runtime, so that its absence is told by `open`."""
    path = ROOT / f"{entry.removeprefix('membound.').replace('.', '/')}.py"
    names = {
        alias.name if isinstance(node, ast.Import) else node.module or ""
        for node in parsed(path).imports_at_top
        for alias in node.names
    }
    assert not {name.partition(".")[0] for name in names} & set(RUNTIMES)


def loaded_by(code: str, folder: Path, *arguments: str) -> set[str]:
    """Modules that a fresh interpreter holds after running `code`."""
    report = "import atexit, sys; atexit.register(lambda: sys.stderr.write('\\nLOADED ' + ' '.join(sys.modules)))\n"
    done = subprocess.run(
        [sys.executable, "-c", report + code, *arguments],
        capture_output=True,
        text=True,
        timeout=120,
        cwd=folder,
        check=True,
    )
    return set(done.stderr.rpartition("LOADED ")[2].split())


COMMAND = "from membound.bench.cli import main; main(sys.argv[1:])"


@pytest.mark.parametrize(
    "arguments",
    [
        *((), ("--help",), ("--version",), ("run", "--help"), ("env", "--help")),
        *(
            ("hardware",),
            ("hardware", "ascend_910", "a100"),
            ("hardware", "--where", "memory_gb>=80", "--json"),
        ),
    ],
    ids=" ".join,
)
def test_import_help_and_the_catalogue_load_nothing_that_is_slow(arguments, tmp_path):
    code = COMMAND if arguments else "import membound; dir(membound)"
    loaded = loaded_by(code, tmp_path, *arguments)
    assert "membound" in {name.partition(".")[0] for name in loaded}
    assert not {name.partition(".")[0] for name in loaded} & {*RUNTIMES, *SLOW}


def test_a_worker_has_no_compiler_before_it_draws_many_numbers_or_opens_a_backend_of_it(tmp_path):
    """A command starts one for each runtime to look for devices, and Numba takes as long to import as all the rest."""
    code = (
        "import membound.bench.measure.gated, membound.bench.measure.station\n"
        "from membound.kernels.reference import compute\n"
        "from membound.kernels.seeded import make_inputs\n"
        "from membound.kernels.work import parse\n"
        "assert compute(make_inputs(parse('step:model=tiny,context=9,weight=int4g32'), 1), 0).any()"
    )
    loaded = loaded_by(code, tmp_path)
    assert "membound.kernels.weights.generate" in loaded
    assert not {"numba", "llvmlite", "scipy", "pandas"} & loaded


def test_torch_that_is_only_opened_loads_nothing_that_compiles(tmp_path):
    """Its import takes as long as torch's, and every command that looks for devices would wait for it."""
    code = (
        "from membound.bench.measure.devices import try_devices\n"
        "assert {'torch:cpu', 'torch:cpu+compile'} <= {found['id'] for found in try_devices('torch', [], 1)}"
    )
    loaded = loaded_by(code, tmp_path)
    assert "torch" in loaded
    assert "torch._dynamo" not in loaded


def test_a_command_imports_no_other_command(tmp_path):
    loaded = loaded_by(COMMAND, tmp_path, "hardware", "a100")
    places = {name.removeprefix("membound.bench.") for name in loaded if name.startswith("membound.bench.")}
    shared = {"cli", "streams", "commands.help", "commands.lazy", "commands.options", "commands.plain_values"}
    no_password_is_shown = {"machine", "machine.environment", "machine.secrets"}
    assert places - {"commands"} == shared | no_password_is_shown | {"commands.hardware"}


@pytest.mark.slow
def test_list_loads_no_runtime_though_it_asks_them_all(tmp_path):
    loaded = loaded_by(COMMAND, tmp_path, "list", "--json")
    assert "membound" in loaded
    assert not loaded & set(RUNTIMES)
