"""Inputs that are as they should be, small: published rows and claims cut short, and what the fakes of the tests make.

>>> rows()[0][:40]
b'{"run_id":"20261125T145044-amd-epyc-e101"'
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import benchmark_files
import gguf_files
import onnx_decoders
import quantised_folders
from checkpoints import CONFIG, tensors_of
from claims import whole_claim
from report_rows import load_row, report_rows
from rows import case, ceiling
from rows import run_rows as fake_run
from safetensors.numpy import save

from membound.bench.measure.rounds import Pace
from membound.bench.planning.plan import Options, make_plan
from membound.bench.planning.suites import DEFAULT_WORKS, DEVICE_WORKS
from membound.bench.protocol import messages
from membound.bench.run.journal import Journal, journal_of
from membound.bench.run.resume import PLAN, keep_plan
from membound.kernels.gguf_header import KINDS, Kind
from membound.kernels.gguf_model import ARCHITECTURES
from membound.kernels.models import get_model
from membound.results.claim.experiments import FILE
from membound.results.claim.file import load_claim
from membound.results.row import Row
from membound.results.run_files import CLAIM_PREFIX
from membound.results.store import load_rows
from membound.results.turns import StoredTurn

PUBLISHED = Path(__file__).parents[2] / "results/published"
PARTS = b"\n=====\n"
"""Between the files of an input that is several of them."""
MOST = 4
"""Entries of a list, and of an object of free form, that a seed keeps."""


OBSERVATIONS = (6, 8, 24)
"""Of an experiment, in the claim files that hold it: most are read fast, some have doses enough for every figure."""


def works() -> list[bytes]:
    """Specs of both suites."""
    return [spec.encode() for spec in (*DEFAULT_WORKS, *DEVICE_WORKS)]


def _short(row: Row) -> Row:
    """A row with as much of each list as its readers need."""
    free = {
        name: dict(list(getattr(row, name).items())[:MOST]) for name in ("machine", "versions", "telemetry")
    }
    return replace(row, **free, turns=row.turns[:2], samples_s=row.samples_s[:2], warmup_s=row.warmup_s[:1])


@cache
def published_runs() -> tuple[tuple[Row, ...], ...]:
    """Of each published run the ceilings, and rows of each status and backend."""
    runs = []
    for path in sorted(PUBLISHED.rglob("*.jsonl")):
        if not path.name.startswith(CLAIM_PREFIX):
            found = load_rows(path)
            first = {
                (row.kind, row.backend, row.work if row.kind == "ceiling" else row.status): row
                for row in found
            }
            runs.append(tuple(_short(row) for row in first.values()))
    return tuple(runs)


def rows() -> list[bytes]:
    """Lines of rows: published ones and those of the tests."""
    found = [row for run in published_runs() for row in run[:: max(1, len(run) // 6)]]
    return [row.to_json().encode() for row in (*found, *fake_run())]


def runs_of_rows() -> list[bytes]:
    """Whole row files."""
    small = [(*run[:6], *[row for row in run[6:] if row.kind == "case"][:5]) for run in published_runs()]
    return ["\n".join(row.to_json() for row in run).encode() for run in (*small, fake_run())]


def runs() -> list[bytes]:
    """Whole row files, and one of pytest-benchmark."""
    return runs_of_rows() + benchmarks()


def pages() -> list[bytes]:
    """Rows of every chart, hostile names among them, each with a point of load of a few requests."""
    load = load_row()
    load = replace(load, requests=load.requests[10:14])
    runs = [rows[:9] for rows in (report_rows(evil=True), report_rows()[20:])]
    files = ["\n".join(row.to_json() for row in (*run, load)).encode() for run in (*runs, [])]
    return [*files, *runs_of_rows()]


FOREIGN = Path(__file__).parents[1] / "results/exchange/files"
MOST_BYTES = 8000
"""Of a seed: a mutation of a long file seldom reaches what is read of it."""


def foreign() -> list[bytes]:
    """Files of other tools, the short ones."""
    files = (path for path in sorted(FOREIGN.iterdir()) if path.suffix != ".md")
    return [content for path in files if len(content := path.read_bytes()) <= MOST_BYTES]


def benchmarks() -> list[bytes]:
    """Files of pytest-benchmark: with membound's row, without, without raw samples."""
    stored = benchmark_files.stored(case(samples=(0.01, 0.02)), [ceiling("read", 11e9, "bytes/s")])
    files = (stored, benchmark_files.content(), benchmark_files.content(data=None))
    return [json.dumps(file).encode() for file in files]


def claim_lines() -> list[bytes]:
    """Single lines of claim files: what it is about, ceilings, observations."""
    claim = whole_claim()
    lines = (claim.meta, *claim.ceilings, *claim.observations[:: max(1, len(claim.observations) // 20)])
    return [line.to_json().encode() for line in lines]


@cache
def claims() -> tuple[bytes, ...]:
    """Claim files of one or two experiments each."""
    whole = [whole_claim(), *(load_claim(path) for path in sorted(PUBLISHED.rglob(f"{CLAIM_PREFIX}*")))]
    files = []
    for claim in whole:
        for number in sorted({one.experiment for one in claim.observations}):
            seen = [one for one in claim.observations if one.experiment == number]
            seen = [replace(one, turns=one.turns[:2], samples_s=one.samples_s[:2]) for one in seen]
            for most in OBSERVATIONS:
                lines = (claim.meta, *map(_short, claim.ceilings[:4]), *seen[:most])
                files += ["\n".join(line.to_json() for line in lines).encode()] if seen else []
    return tuple(files)


def model_folders() -> list[bytes]:
    """config.json, model.safetensors and an index, joined by PARTS: those that are run, and a config.json of each other family."""
    shapes: dict[str, Any] = (
        CONFIG | {"hidden_size": 32, "intermediate_size": 32, "vocab_size": 16} | {"head_dim": 8}
    )
    folders = []
    for family, more in (
        ("llama", {"tie_word_embeddings": True, "hidden_act": "silu", "rope_theta": 1e4}),
        ("llama", {"rope_scaling": {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0}
                   | {"high_freq_factor": 4.0, "original_max_position_embeddings": 8192}}),
        ("mistral", {"sliding_window": 4096}),
        ("qwen2", {"use_sliding_window": False, "sliding_window": 64, "max_window_layers": 1}),
        ("qwen3", {"layer_types": ["full_attention"], "attention_bias": False, "quantization_config": None}),
    ):  # fmt: skip
        config = shapes | {"num_hidden_layers": 1, "model_type": family, "rms_norm_eps": 1e-6} | more
        config["architectures"] = [f"{family.capitalize()}ForCausalLM"]
        with TemporaryDirectory() as folder:
            (Path(folder) / "config.json").write_text(json.dumps(config))
            model = get_model(folder)
        tensors = tensors_of(model)
        index = {"metadata": {}, "weight_map": dict.fromkeys(tensors, "model.safetensors")}
        listing = json.dumps(index).encode() if family.startswith("qwen") else b""
        folders.append(PARTS.join((json.dumps(config).encode(), save(tensors), listing)))
    for kind in quantised_folders.MAKERS:
        with TemporaryDirectory() as folder:
            quantised_folders.write_folder(Path(folder), kind, **STORED_SHAPE)
            parts = [(Path(folder) / name).read_bytes() for name in ("config.json", "model.safetensors")]
            folders.append(PARTS.join((*parts, b"")))
    counted = (Path(__file__).parents[1] / "kernels/data/families.jsonl").read_text(encoding="utf-8")
    return folders + [json.dumps(json.loads(line)["config"]).encode() for line in counted.splitlines()[::2]]


STORED_SHAPE = {
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 64,
    "intermediate_size": 128,
    "vocab_size": 16,
}
"""Of quantised folders: the least that every format takes."""


def gguf_models() -> list[bytes]:
    """GGUF files of each architecture and type of tensor that is read."""
    files = []
    for architecture in ARCHITECTURES:
        for number, kind in KINDS.items():
            width = max(64, kind.block)
            shape = {"block_count": 1, "attention.head_count": 4, "attention.key_length": width // 4}
            shape |= {"embedding_length": width, "feed_forward_length": width}
            fields = gguf_files.fields_of(architecture, **shape) | {"tokenizer.ggml.tokens": ["a", "b"]}
            files.append(gguf_files.gguf(fields, dict(_gguf_tensors(architecture, number, kind, width))))
    return files


def _gguf_tensors(
    architecture: str, number: int, kind: Kind, width: int
) -> Iterator[tuple[str, tuple[Any, ...]]]:
    """Tensors of one layer whose numbers are all 0, its matrices of this type."""
    rows = {"token_embd": 16, "output": 16, "blk.0.attn_k": width // 2, "blk.0.attn_v": width // 2}
    rows |= dict.fromkeys(("blk.0.attn_q", "blk.0.attn_output"), width)
    rows |= dict.fromkeys(("blk.0.ffn_gate", "blk.0.ffn_up", "blk.0.ffn_down"), width)
    for name, n in rows.items():
        yield f"{name}.weight", (number, (n, width), bytes(n * width // kind.block * kind.size))
    vectors = dict.fromkeys(("output_norm.weight", "blk.0.attn_norm.weight", "blk.0.ffn_norm.weight"), width)
    if architecture == "qwen2":
        vectors |= {f"blk.0.attn_{part}.bias": rows[f"blk.0.attn_{part}"] for part in "qkv"}
    if architecture == "qwen3":
        vectors |= dict.fromkeys(("blk.0.attn_q_norm.weight", "blk.0.attn_k_norm.weight"), width // 4)
    for name, count in vectors.items():
        yield name, (gguf_files.F32, (count,), bytes(4 * count))


def plans() -> list[bytes]:
    """What a killed run leaves as its plan."""
    found = []
    with TemporaryDirectory() as folder:
        paced = Options(threads=1, pace=Pace(3, 1.0), time_limit_s=60.0)
        for number, options in enumerate((Options(threads=1), paced)):
            plan = make_plan(
                ["numpy:cpu"], ["linear:n=64,k=64,weight=f32"], replace(options, out=Path("out")), 10**9
            )
            path = Path(folder) / f"{number}.jsonl"
            keep_plan(plan, path)
            found.append(path.with_name(path.name + PLAN).read_bytes())
    return found


def journals() -> list[bytes]:
    """What a killed run leaves of turns."""
    turn = StoredTurn(1, 2.5, 1e-3, 4, before={"read": 4e10}, after={"read": 5e10}, disturbance=0.01)
    with TemporaryDirectory() as folder:
        path = Path(folder) / "run.jsonl"
        with Journal(path) as journal:
            for replicate in range(3):
                journal.add("numpy:cpu", replicate, "linear:n=64,k=64,m=1,weight=f32,act=float", turn)
            return [journal_of(path).read_bytes()]


def onnx_files() -> list[bytes]:
    """Small decoders of every form that exporters give them."""
    models = [
        *(onnx_decoders.gqa_model(weight, layers=1) for weight in ("f32", "int4")),
        onnx_decoders.gqa_model(layers=1, window=4),
        onnx_decoders.plain_model(),
    ]
    return [model.SerializeToString() for model in models]


def experiments() -> list[bytes]:
    """The register of experiments."""
    return [FILE.read_bytes()]


def protocol() -> list[bytes]:
    """A line of each message that harness and workers may send."""
    turned = messages.Turned(1e-3, 2, None, 0.01, [], 1 << 20, 1e-5, {"read": 1e9}, {"a": 1})
    prepared = messages.Prepared(2, 1 << 20, 1 << 20, 1 << 20, 0.1, 1e-3, 1e-3, 4, 1e-3, 1e-2, None)
    said: Sequence[messages.Command | messages.Answer] = (
        *(messages.Probe("numpy", []), messages.AskCoverage("numpy", ["linear:n=8,k=32"]), messages.Close()),
        *(
            messages.MeasureMachine(True),
            messages.OpenCeiling(["f32"]),
            messages.OpenDeviceCeiling({"read": "x"}),
        ),
        *(messages.TakeCeilingTurn(["read"]), messages.Open("numpy:cpu", 1, 10**9, "", [1])),
        *(messages.AskOffers({"1": []}), messages.Prepare(0, "linear:n=8,k=32", [{}]), messages.TakeTurn(0)),
        *(messages.Hello("3.11", messages.PROTOCOL), messages.Phase("reference", [0]), messages.Found([{}])),
        *(
            messages.CeilingTurned({"read": 1e9}, {"read": True}, {}, 1),
            messages.Opened("CPU", {"a": "1"}, {}, "read"),
        ),
        *(
            prepared,
            turned,
            messages.Checked(1e-3, {"x": 1}, {}),
            messages.Failed("error", "no", 1.0),
            messages.Done(),
        ),
    )
    return [messages.encode(message, number).encode() for number, message in enumerate(said)]


def arguments() -> list[bytes]:
    """Command lines that measure nothing, their arguments joined by NUL."""
    lines = (
        "--version",
        "run --quick --json",
        "show latest",
        "compare a b --force",
        "compare a b --by backend",
        "import a.json --ceilings latest",
        "export latest b.csv --format csv",
        "claim-report x --html y",
        "report x --html y --png z",
        "list",
        "hardware h100 h200",
        "predict llama-3-8b --on h100 --batch 1..64",
        "cost llama-3-8b --on h100 --api-price 1/2",
        "plan --model llama-3-8b --tokens-per-day 1e9",
        "gate --base x.jsonl --head y.jsonl",
        "noise --command true",
        "load --url http://127.0.0.1:9/v1 --rate 1",
        "null-server --port 0 --fault list",
    )
    return [line.replace(" ", "\0").encode() for line in lines]
