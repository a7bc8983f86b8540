"""The real engine as a server: started, loaded, compared with the reference, stopped; nothing is left of it.

membound env create vllm && pytest -m vllm
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from killed_loads import killed_loads

from membound.bench.environments.build import states
from membound.kernels.export import export_model
from membound.kernels.inputs import ModelInputs
from membound.kernels.seeded import make_inputs
from membound.kernels.work import parse
from membound.results.row import Row
from membound.results.serving.roofline import roofline_of
from membound.results.serving.table import point_of_row
from membound.results.store import load_rows

pytest.importorskip("uvloop")
pytestmark = [pytest.mark.vllm, pytest.mark.slow]

LOAD = (
    "--users",
    "2",
    "--seconds",
    "2",
    "--warm",
    "0.5",
    "--prompt",
    "20",
    "--output",
    "12",
    "--threads",
    "1",
)
ROUND_TRIP = """
import json, sys
from transformers import AutoTokenizer
tokenizer = AutoTokenizer.from_pretrained(sys.argv[1])
texts = ["The time of the people, at school.", " naïve café – 日本\\n\\t", "x = {'a': [1, 2]}"]
back = [tokenizer.decode(tokenizer(text)["input_ids"]) for text in texts]
chat = tokenizer.apply_chat_template([{"role": "user", "content": "a day"}], tokenize=False)
print(json.dumps({"same": back == texts, "people": len(tokenizer(" people")["input_ids"]), "chat": chat}))
"""


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """One load on an engine that is started for it: the folder, and what the command printed."""
    (state,) = [state for state in states() if state.recipe.name == "vllm"]
    if state.problem or not state.made:
        pytest.fail(f"there is no environment to run vLLM in: {state.problem or 'not made'}; {state.remedy}")
    folder = tmp_path_factory.mktemp("load")
    command = [
        sys.executable,
        "-m",
        "membound",
        "load",
        "--engine",
        "vllm",
        "--model",
        "step:model=tiny,weight=f32",
    ]
    done = subprocess.run(
        [*command, *LOAD, "--out", str(folder)], capture_output=True, text=True, check=False, timeout=400
    )
    assert done.returncode in (0, 1), (
        done.stdout + done.stderr
    )  # 1: the client was the limit, on a machine that is shared
    return folder, done.stdout


@pytest.fixture
def row(ran: tuple[Path, str]) -> Row:
    (found,) = load_rows(ran[0])
    return found


def test_it_says_the_right_tokens_under_load(row: Row) -> None:
    assert row.status == "ok", row.reason
    assert row.config["truth"]["tokens"] >= 12
    assert row.error is not None
    assert row.tolerance is not None
    assert row.error <= row.tolerance
    assert point_of_row(row).ok > 0
    assert {one.counted_by for one in row.requests} == {"ids"}


def test_what_decides_its_speed_is_in_the_row(row: Row) -> None:
    facts = row.config["engine"]
    assert (facts["device"], facts["dtype"], facts["prefix_cache"]) == ("cpu", "float32", False)
    assert facts["max_num_batched_tokens"] > 0
    assert facts["max_num_seqs"] == 2
    assert facts["graphs"] is False
    assert "unknown" not in facts.values()
    assert row.config["server"]["mean_itl_s"] > 0
    assert row.config["server"]["steps"] > 0


def test_it_stands_on_the_roofline(row: Row) -> None:
    found = roofline_of(row)
    assert found is not None
    assert found.mbu is not None
    assert found.mbu > 0
    assert found.split["engine"] is not None
    assert 1 <= found.decoding.batch <= 2


def test_nothing_is_left_of_it(ran: tuple[Path, str]) -> None:
    folder, printed = ran
    assert "left nothing behind" in printed
    (log,) = folder.glob("*.log")
    assert "Application shutdown complete" in log.read_text()


def test_the_tokenizer_gives_text_back(tmp_path: Path) -> None:
    (state,) = [state for state in states() if state.recipe.name == "vllm"]
    inputs = make_inputs(parse("step:model=tiny,weight=f32,kv=f32,cache=prompt"), 1)
    assert isinstance(inputs, ModelInputs)
    export_model(inputs, tmp_path)
    done = subprocess.run(
        [str(state.recipe.python), "-c", ROUND_TRIP, str(tmp_path)],
        capture_output=True,
        text=True,
        check=True,
        timeout=200,
    )
    found = json.loads(done.stdout.splitlines()[-1])
    assert found == {"same": True, "people": 1, "chat": "user: a day\nassistant:"}


def test_nothing_is_left_when_the_client_is_killed_at_random_moments() -> None:
    engine = ("--engine", "vllm", "--model", "step:model=tiny,weight=f32")
    killed = killed_loads([*engine, *LOAD, "--seconds", "30"], count=2, within_s=60.0)
    assert [one.left for one in killed] == [()] * 2
    assert any(one.processes > 2 for one in killed), "none was killed while its server was there"
