"""Keys that are planted in environment, addresses, arguments and home, and looked for in all that comes out."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path

import pytest
from benchmark_files import content

from membound.bench import cli
from membound.bench.machine.environment import recorded
from membound.bench.machine.secrets import command_line, without_passwords, without_secrets
from membound.bench.measure.failures import said

ROOT = Path(__file__).parents[2]
KEYS = [
    f"planted-{word}-5ab1" for word in ("variable", "setting", "index", "argument", "option", "netrc", "pip")
]
VARIABLE, SETTING, INDEX, ARGUMENT, OPTION, NETRC, PIP = KEYS
UV = """#!/bin/sh
tr '\\0' ' ' < /proc/$$/cmdline > "$UV_SEEN.cmdline"
echo "$UV_DEFAULT_INDEX" > "$UV_SEEN.index"
echo "error: $UV_DEFAULT_INDEX/simple cannot be read" >&2
exit 1
"""
TEST = """
import numpy as np

def test_product(bandwidth_benchmark):
    inputs = bandwidth_benchmark.inputs("linear:n=1024,k=1024,m=1,weight=f32")  # few of them are more than a cache
    sets = [(inputs.x, inputs.weight(slot).values.T) for slot in range(inputs.slots)]
    bandwidth_benchmark(np.matmul, sets, inputs=inputs)
"""


@pytest.fixture
def planted(tmp_path: Path) -> dict[str, str]:
    """An environment with keys in its variables and in the files of its home."""
    home = tmp_path / "home"
    home.mkdir()
    (home / ".netrc").write_text(f"machine 127.0.0.1 login me password {NETRC}\n")
    (home / ".config/pip").mkdir(parents=True)
    (home / ".config/pip/pip.conf").write_text(
        f"[global]\nextra-index-url = http://me:{PIP}@127.0.0.1:9/more\n"
    )
    (home / ".netrc").chmod(0o600)
    return os.environ | {
        "HOME": str(home),
        "PYTHONPATH": str(ROOT / "src"),
        "MEMBOUND_CACHE_DIR": os.environ.get("MEMBOUND_CACHE_DIR", str(tmp_path / "cache")),
        "MEMBOUND_ENVIRONMENTS": str(tmp_path / "environments"),
        "VLLM_API_KEY": VARIABLE,
        "TORCH_HOME_PAGE": f"https://me:{SETTING}@127.0.0.1:9/",
        "PIP_INDEX_URL": f"http://me:{INDEX}@127.0.0.1:9/simple",
        "PIP_RETRIES": "0",
    }


def watched(command: Sequence[str], folder: Path, environment: dict[str, str]) -> tuple[int, str, set[str]]:
    """Exit status, all that was printed, and the command line of every process that it started."""
    with subprocess.Popen(
        command, cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        seen: set[str] = set()
        ended = threading.Event()

        def watch() -> None:
            while not ended.wait(0.01):
                seen.update(_command_lines(process.pid))

        watcher = threading.Thread(target=watch)
        watcher.start()
        try:
            printed, _ = process.communicate(timeout=300)
        finally:
            ended.set()
            watcher.join()
    seen.discard("\0".join([*command, ""]))  # of a child that has not begun its own program yet
    return process.returncode, printed, seen


def _command_lines(ancestor: int) -> Iterator[str]:
    """Those of the processes that come from another, which itself does not count."""
    for pid in _children(ancestor):
        with suppress(OSError, UnicodeDecodeError):  # it has ended, or its arguments are no text
            yield Path(f"/proc/{pid}/cmdline").read_text(encoding="utf-8")
        yield from _command_lines(pid)


def _children(pid: int) -> list[int]:
    """As the kernel lists them, thread by thread: to ask every process for its parent would take the core it runs on."""
    found: list[int] = []
    with suppress(OSError):  # it ends meanwhile
        for thread in Path(f"/proc/{pid}/task").iterdir():
            with suppress(OSError):
                found += map(int, (thread / "children").read_text().split())
    return found


def leaks(printed: str, seen: set[str], folder: Path, home: str) -> list[str]:
    """Where a key stands that was planted elsewhere."""
    files = [path for path in folder.rglob("*") if path.is_file() and not path.is_relative_to(home)]
    texts = {"printed": printed, "command lines": "\n".join(seen)}
    texts |= {str(path): path.read_text(errors="replace") for path in files if path.name != "seen.index"}
    return [f"{key} in {where}" for where, text in texts.items() for key in KEYS if key in text]


def test_a_run_stores_and_prints_no_key(planted: dict[str, str], tmp_path: Path) -> None:
    work = "linear:n=64,k=64,m=1,weight=f32"
    asked = ["-b", "numpy", "--quick", "--no-ceilings", "--replicates", "1", "--out", f"key={ARGUMENT}"]
    command = [sys.executable, "-m", "membound", "run", work, *asked]
    status, printed, seen = watched(command, tmp_path, planted)
    assert status == 0, printed
    (rows,) = tmp_path.glob("key=*/*.jsonl")
    assert any("membound.bench.worker" in line for line in seen)
    assert "--out 'key=***'" in rows.read_text()
    assert '"TORCH_HOME_PAGE":"https://***@127.0.0.1:9/"' in rows.read_text().replace(": ", ":")
    assert leaks(printed.replace(rows.parent.name, ""), seen, tmp_path, planted["HOME"]) == []


def test_pytests_arguments_are_stored_without_keys(planted: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "test_it.py").write_text(TEST)
    told = [
        "-o",
        f"junit_suite_name=auth_token={ARGUMENT}",
        "--junit-prefix",
        f"http://me:{OPTION}@127.0.0.1/",
    ]
    stored = ["--benchmark-json", "out.json", "--membound-ceilings", "none", "-p", "no:cacheprovider"]
    command = [sys.executable, "-m", "pytest", "test_it.py", *told, *stored]
    status, printed, seen = watched(command, tmp_path, planted)
    assert status == 0, printed
    assert "auth_token=***" in (tmp_path / "out.json").read_text()
    assert leaks(printed, seen, tmp_path, planted["HOME"]) == []


@pytest.mark.slow
def test_making_an_environment_shows_no_index_with_its_password(
    planted: dict[str, str], tmp_path: Path
) -> None:
    uv = tmp_path / "bin/uv"
    uv.parent.mkdir()
    uv.write_text(UV)
    uv.chmod(0o755)
    planted |= {"PATH": f"{uv.parent}:{os.environ['PATH']}", "UV_SEEN": str(tmp_path / "seen")}
    command = [sys.executable, "-m", "membound", "env", "create", "onnxruntime-openvino"]
    status, printed, seen = watched(command, tmp_path, planted)
    assert status == 2, printed
    assert "uv failed (error: http://***@127.0.0.1:9/simple" in printed
    assert "pip install" in (tmp_path / "seen.cmdline").read_text(encoding="utf-8")
    assert INDEX in (tmp_path / "seen.index").read_text(), "uv must know the index all the same"
    assert leaks(printed, seen, tmp_path, planted["HOME"]) == []


def test_a_gate_of_commands_stores_and_prints_no_key(planted: dict[str, str], tmp_path: Path) -> None:
    """Neither its own command line nor those that take turns, which may fail with a key in their last words."""
    rows = tmp_path / "bench.json"
    rows.write_text(json.dumps(content()), encoding="utf-8")
    side = f"cat {rows} --api-key {ARGUMENT}"
    script = tmp_path / "bin/cat"
    script.parent.mkdir()
    script.write_text('#!/bin/sh\nexec /bin/cat "$1"\n', encoding="utf-8")
    script.chmod(0o755)
    planted |= {"PATH": f"{script.parent}:{os.environ['PATH']}"}
    asked = ["--base-command", side, "--head-command", side, "--pairs", "6", "--markdown", "verdict.md"]
    command = [sys.executable, "-m", "membound", "gate", *asked]
    status, printed, _ = watched(command, tmp_path, planted)
    assert status in (0, 2), printed
    (stored,) = tmp_path.glob("results/gates/*.jsonl")
    assert f"cat {rows} --api-key '***'" in stored.read_text(encoding="utf-8")
    assert "--api-key ***" in (tmp_path / "verdict.md").read_text(encoding="utf-8")
    assert leaks(printed, set(), tmp_path, planted["HOME"]) == []
    failing = f"sh -c 'echo https://me:{OPTION}@127.0.0.1/ >&2; exit 3' --token {ARGUMENT}"
    command[5:6] = [failing]
    status, printed, _ = watched(command, tmp_path, planted)
    assert (status, "ended with status 3: https://***@127.0.0.1/" in printed) == (2, True), printed
    assert leaks(printed, set(), tmp_path, planted["HOME"]) == []


@pytest.mark.parametrize(
    "arguments",
    [
        ["fleet", "--address", f"http://me:{ARGUMENT}@127.0.0.1:x"],
        ["show", f"s3://me:{ARGUMENT}@bucket/rows.jsonl"],
        ["load", "--url", f"http://me:{ARGUMENT}@127.0.0.1:9/v1", "--rate", "1"],
        ["run", "--backends", f"https://me:{ARGUMENT}@127.0.0.1/"],
        ["predict", "--validate", "--rows", f"https://me:{ARGUMENT}@127.0.0.1/rows.csv"],
        [f"https://me:{ARGUMENT}@127.0.0.1/"],
    ],
    ids=lambda arguments: arguments[0][:7],
)
def test_what_is_refused_is_told_without_passwords(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], arguments: list[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as ended:
        cli.main(arguments)
    said = capsys.readouterr()
    assert (ended.value.code, said.err.count("\n")) == (2, 1), said.err
    assert ARGUMENT not in said.err + said.out


# Texts


@pytest.mark.parametrize(
    ("arguments", "stored"),
    [
        (["run", "prefill:model=tiny,tokens=11"], "run prefill:model=tiny,tokens=11"),
        (["--out", "key=abc"], "--out 'key=***'"),
        (["--out=a/api_key=abc"], "'--out=a/api_key=***'"),
        (["--hf-token", "abc", "b"], "--hf-token '***' b"),
        (["--password=abc", "b"], "'--password=***' b"),
        (["https://a:b@host/x", "s3://me@host"], "'https://***@host/x' 's3://***@host'"),
        (["a-value-of-mine"], "'a-***'"),
        (["b=c"], "b=c"),
        (["--pass", "abc", "--db-pwd=abc", "d"], "--pass '***' '--db-pwd=***' d"),
        (["--passes", "3", "bypass=3"], "--passes 3 bypass=3"),
        (["curl -H 'Authorization: Bearer abc' b"], "'curl -H '\"'\"'Authorization: Bearer ***'\"'\"' b'"),
        (["-H", "Cookie: abc", "c"], "-H 'Cookie: ***' c"),
        (["az://b/c?sv=1&sig=abc&d=2"], "'az://b/c?sv=1&sig=***&d=2'"),
        (["--base-command", "./old --api-key abc {out}"], "--base-command './old --api-key *** {out}'"),
        (["sh -c './old --token abc; b'"], "'sh -c '\"'\"'./old --token *** b'\"'\"''"),
        (["./old --password 'a b' c", "x key=1"], "'./old --password *** c' 'x key=***'"),
        (["--token " * 20_000], "'--token " + "*** " * 19_999 + "'"),
        (["'--token " * 20_000], None),
        (["?" + "key" * 20_000], None),
        (["authorization: " + " " * 60_000], None),
        (["key" * 20_000], "key" * 20_000),  # where a search through all places of the name would take hours
    ],
)
def test_a_command_line_is_stored_without_secrets(arguments: list[str], stored: str | None) -> None:
    """None: whatever it is, it does not take long."""
    found = command_line(arguments, {"MY_SECRET": "value-of-mine", "A_TOKEN": "b"})
    assert stored is None or found == stored


def test_texts_of_others_lose_passwords_and_values() -> None:
    text = "GET https://me:p@ss@host/a?b=c@d failed for value-of-mine"
    assert without_passwords(text) == "GET https://***@host/a?b=c@d failed for value-of-mine"
    asked = "GET https://host/a?x=1&X-Amz-Signature=abc&token=d failed: {'Authorization': 'Bearer e', 'api-key': 'f'}"
    left = "GET https://host/a?x=1&X-Amz-Signature=***&token=*** failed: {'Authorization': 'Bearer ***', 'api-key': '***'}"
    assert said(RuntimeError(asked)) == left
    assert without_secrets(text, {"A_KEY": "value-of-mine"}) == "GET https://***@host/a?b=c@d failed for ***"
    assert said(RuntimeError(text)).startswith("GET https://***@host")
    keys = dict.fromkeys(("VLLM_API_KEY", "VLLM_DB_PASS", "NCCL_PASSPHRASE", "ORT_COOKIE"), "c")
    assert recorded({"VLLM_URL": "http://a:b@host"} | keys) == {"VLLM_URL": "http://***@host"}
