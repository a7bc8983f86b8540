"""Other people's pytest: the plugin loads nothing heavy, and without pytest-benchmark only its fixture fails."""

from __future__ import annotations

import os
import subprocess
import sys

TWO = "".join(
    f"def test_{name}(bandwidth_benchmark):\n    bandwidth_benchmark(len, [('ab',)], bytes=4096)\n"
    for name in "ab"
)


def child(folder, code_or_options, **environment):
    return subprocess.run(
        [sys.executable, *code_or_options],
        cwd=folder,
        env=os.environ | environment,
        capture_output=True,
        text=True,
        timeout=60,
    )


def test_pytest_starts_without_loading_anything_heavy(tmp_path):
    (tmp_path / "test_it.py").write_text(
        "import sys\n\ndef test_it():\n"
        "    heavy = {'numpy', 'numba', 'pandas', 'scipy', 'psutil', 'rich', 'torch', 'typer'}\n"
        "    assert 'membound.bench.pytest_plugin.hooks' in sys.modules\n"
        "    assert not heavy & set(sys.modules)\n"
    )
    options = ("-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "membound.bench.pytest_plugin.hooks")
    done = child(tmp_path, options, PYTEST_DISABLE_PLUGIN_AUTOLOAD="1")
    assert done.returncode == 0, done.stdout + done.stderr


def test_only_the_plugin_itself_is_searched_for_asserts(tmp_path):
    (tmp_path / "test_it.py").write_text(
        "import sys\n\nimport membound.kernels.work\n\ndef test_it():\n"
        "    found = {name: one for name, one in sys.modules.items() if name.startswith(('membound', 'test_it'))}\n"
        "    loaders = {name: type(one.__loader__).__name__ for name, one in found.items()}\n"
        "    assert loaders['membound.kernels.work'] == 'SourceFileLoader'\n"
        "    assert loaders['test_it'] == 'AssertionRewritingHook'\n"
        "    rewritten = [name for name, loader in loaders.items() if loader == 'AssertionRewritingHook']\n"
        "    ours = {name for name in rewritten if name.startswith('membound.')}\n"
        "    assert ours <= {'membound.bench.pytest_plugin.hooks', 'membound.version'}\n"
    )
    done = child(tmp_path, ("-m", "pytest", "-q", "-p", "no:cacheprovider"))
    assert done.returncode == 0, done.stdout + done.stderr


def test_without_pytest_benchmark_only_the_fixture_fails_and_says_what_to_install(tmp_path):
    (tmp_path / "sitecustomize.py").write_text(
        "import importlib.util as finder\n\nfind = finder.find_spec\n"
        "finder.find_spec = lambda name, *a: None if name == 'pytest_benchmark' else find(name, *a)\n"
    )
    (tmp_path / "test_it.py").write_text("def test_other():\n    pass\n\n" + TWO)
    options = ("-m", "pytest", "-p", "no:cacheprovider", "-p", "membound.bench.pytest_plugin.hooks")
    done = child(tmp_path, options, PYTEST_DISABLE_PLUGIN_AUTOLOAD="1", PYTHONPATH=str(tmp_path))
    assert "1 passed, 2 errors" in done.stdout, done.stdout + done.stderr
    assert "bandwidth_benchmark needs pytest-benchmark: pip install pytest-benchmark" in done.stdout
