"""Engines that are started: ready, dead, deaf, with children and shared memory; and what is left of them, which is nothing."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from null_engine import ENGINE, FACTS
from processes import comes_true

from membound.backends.serving import Settings
from membound.bench.protocol import guardian
from membound.bench.serving import launcher
from membound.bench.serving.launcher import Launch, ServerFailed, launched

pytest.importorskip("uvloop")

SETTINGS = Settings("step:model=tiny,weight=f32,kv=f32", 1, "tiny", "", 1, 64, 3)
HARNESS = """
import sys, time
from pathlib import Path
from null_engine import ENGINE
from membound.backends.serving import Settings
from membound.bench.serving.launcher import Launch, launched
settings = Settings("a spec", 1, "tiny", "", 1, 64, 3, options={"child": "", "deaf": "", "shared": ""})
with launched(Launch(ENGINE, sys.executable, settings, Path(sys.argv[1]))) as server:
    print(server.pid, server.endpoint.port, flush=True)
    time.sleep(100)
"""


def launch(tmp_path: Path, ready_s: float = 60.0, **options: str) -> Launch:
    return Launch(ENGINE, sys.executable, replace(SETTINGS, options=options), tmp_path / "log", ready_s)


def group(pid: int) -> list[int]:
    """The processes of a session and group, whoever their parent is by now."""
    found = []
    for entry in os.listdir("/proc"):
        try:
            fields = Path(f"/proc/{entry}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
        except (OSError, ValueError):
            continue
        if entry.isdecimal() and fields[0] not in "ZX" and int(fields[2]) == pid:
            found.append(int(entry))
    return found


def test_a_server_is_ready_on_loopback_and_leaves_nothing(tmp_path: Path) -> None:
    with launched(launch(tmp_path)) as server:
        assert server.endpoint.host == "127.0.0.1"
        assert (server.engine, server.name, server.facts) == ("null", "tiny", FACTS)
        assert len(server.endpoint.key) >= 32
        command = Path(f"/proc/{server.pid}/cmdline").read_text(encoding="utf-8")
        assert server.endpoint.key not in command + repr(server)
        assert os.getpgid(server.pid) == server.pid != os.getpgid(0)
        assert server.death() == ""
    assert server.left == ()
    assert group(server.pid) == []
    assert not launcher._listens(server.endpoint.port)
    log = (tmp_path / "log").read_text()
    assert f"serving tiny, {len(server.endpoint.key)} characters of key" in log
    assert server.endpoint.key not in log


def test_what_does_not_end_by_itself_is_ended_and_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(launcher, "STOP_S", 0.2)
    monkeypatch.setattr(launcher, "GONE_S", 0.1)
    with launched(launch(tmp_path, deaf="", child="", shared="")) as server:
        mapped = launcher._shared_memory([server.pid])
        assert [path.is_file() for path in mapped] == [True]
        marks = Path(f"/proc/{server.pid}/environ").read_text(encoding="utf-8").split("\0")
        (mark,) = (text.partition("=")[2] for text in marks if text.startswith(f"{guardian.WORKER}="))
        assert len(guardian.marked(guardian.WORKER, mark)) >= 2
    told = "; ".join(server.left)
    assert "did not end within 0 s of TERM" in told
    assert "outlived it, and were killed" in told
    assert guardian.marked(guardian.WORKER, mark) == []
    assert not any(path.exists() for path in mapped)


@pytest.mark.parametrize(
    ("options", "ready_s", "words"),
    [
        ({"fail": ""}, 60.0, "null did not start: exit status 1: ValueError: no such model; its log is"),
        ({}, 0.0, "null was not ready after 0 s"),
    ],
)
def test_a_server_that_does_not_start_says_why(
    tmp_path: Path, options: dict[str, str], ready_s: float, words: str
) -> None:
    with pytest.raises(ServerFailed, match=words), launched(launch(tmp_path, ready_s, **options)):
        pass


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "it is no JSON with a port and facts"),
        ("[]", "it is no JSON with a port and facts"),
        ('{"port": PORT}', "it is no JSON with a port and facts"),
        ("[" * 100_000, "it is no JSON with a port and facts"),
        (f'{{"port": PORT, "facts": {{"x": "{"x" * (1 << 20)}"}}}}', "longer than 1048576 bytes"),
        ('{"port": "PORT", "facts": {}}', r"port is '\d+', not a number from 1 to 65535"),
        ('{"port": 65536, "facts": {}}', "port is 65536, not a number"),
        ('{"port": PORT, "facts": [1]}', r"what it tells is \[1\], not a dict"),
        ('{"port": PORT, "facts": {"threads": "auto"}}', "threads is 'auto', not a whole number"),
        ('{"port": PORT, "facts": {"device": null}}', "device is None, not text"),
        ('{"port": PORT, "facts": {"versions": 5}}', "versions is 5, not a dict"),
    ],
)
def test_what_no_server_can_tell_of_itself(tmp_path: Path, text: str, words: str) -> None:
    path = tmp_path / "told.json"
    path.write_text(text.replace("PORT", "4000"))
    with pytest.raises(ServerFailed, match=f"null says of itself what cannot be: .*{words}") as error:
        launcher._told(path, "null")
    assert error.value.status == "error"


def test_a_server_that_tells_nonsense_is_ended(tmp_path: Path) -> None:
    with (
        pytest.raises(ServerFailed, match="says of itself what cannot be: threads is -1"),
        launched(launch(tmp_path, told='{"port": PORT, "facts": {"threads": -1}}')),
    ):
        pass
    assert guardian.marked(guardian.HARNESS, guardian.harness_mark()) == []


def test_an_interpreter_that_is_none(tmp_path: Path) -> None:
    with (
        pytest.raises(ServerFailed, match="cannot be started: No such file"),
        launched(replace(launch(tmp_path), python="/no/such")),
    ):
        pass


def test_nothing_is_left_when_the_harness_is_killed(tmp_path: Path) -> None:
    """The server ignores TERM, has a child in a session of its own, and shared memory."""
    folders = [str(Path(__file__).parents[2] / "fakes"), os.environ.get("PYTHONPATH", "")]
    (tmp_path / "temporary").mkdir()
    harness = subprocess.Popen(
        [sys.executable, "-c", HARNESS, str(tmp_path / "log")],
        stdout=subprocess.PIPE,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(folders), "TMPDIR": str(tmp_path / "temporary")},
        text=True,
    )
    assert harness.stdout is not None
    with harness:
        pid, port = map(int, harness.stdout.readline().split())
        mapped = launcher._shared_memory([pid])
        assert len(mapped) == 1
        assert len(list((tmp_path / "temporary").glob("membound-*/*/settings.json"))) == 1
        harness.send_signal(signal.SIGKILL)
        harness.wait(20)
    assert comes_true(lambda: not group(pid))
    assert comes_true(lambda: not any(path.exists() for path in mapped)), mapped
    assert comes_true(lambda: not any((tmp_path / "temporary").iterdir()))
    assert not launcher._listens(port)
