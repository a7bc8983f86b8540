"""`membound null-server` as a user calls it."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
import urllib.request

import pytest

from membound.bench import cli
from membound.bench.serving.null_server import FAULTS

pytest.importorskip("uvloop")


def test_it_prints_its_address_serves_and_ends_by_ctrl_c() -> None:
    command = [sys.executable, "-m", "membound", "null-server", "--ttft", "1", "--itl", "1"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        url = process.stdout.readline().strip()
        with urllib.request.urlopen(f"{url}/models", timeout=20) as answer:
            assert json.load(answer)["data"][0]["id"] == "null"
        process.send_signal(signal.SIGINT)
        try:
            _, err = process.communicate(timeout=30)
        finally:
            process.kill()
    assert (process.returncode, err) == (0, "")


def test_faults_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main(["null-server", "--fault", "list", "--json"])
    assert ended.value.code in (0, None)
    assert json.loads(capsys.readouterr().out) == FAULTS


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--fault", "none"], "no fault 'none'"),
        (["--ttft", "-1"], "milliseconds"),
        (["--itl", "nan"], "milliseconds"),
        (["--every", "0"], "must be from 1"),
        (["--every", "1"], "--every has an effect only with --fault"),
        (["--fault", "list", "--port", "0"], "leave out --port"),
        (["--port", "70000"], "must be from 0 to 65535"),
    ],
)
def test_bad_input_is_one_line_and_two(
    arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main(["null-server", *arguments])
    assert ended.value.code == 2
    assert words in capsys.readouterr().err


def test_a_port_that_is_taken_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(SystemExit) as ended:
            cli.main(["null-server", "--port", str(taken.getsockname()[1])])
    assert ended.value.code == 2
    assert "cannot be listened on" in capsys.readouterr().err
