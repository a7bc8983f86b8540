"""Further targets: files of devices and measurements, traces, what servers say, notes of fleets, rows as other commands read them.

>>> {target.name for target in READERS} >= {"devices", "traces", "streams"}
True
"""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from itertools import islice
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory

import mutation
from fleet_rows import fleet_rows
from fleets import ASK, CASES, FLEET, assigned, lined
from grammar import other_register
from load_points import row as point_row
from rich.console import Console
from rows import case, ceiling
from target import Target, folder, refusing, shown, written

from membound.bench.fleet.ask import check
from membound.bench.fleet.assignment import assignments
from membound.bench.fleet.fleet_error import FleetError
from membound.bench.fleet.fleet_file import FleetFile, asked_path, find_fleet, rows_of
from membound.bench.fleet.view import Pace, stragglers, summary
from membound.bench.gate.gating import judged_files
from membound.bench.planning.demands import demand_of
from membound.bench.planning.economics import EconomicsError, loaded_points
from membound.bench.planning.here import HereError, heres_of
from membound.bench.planning.measured import BUILT_IN, MeasuredError, measured_rows
from membound.bench.run.resume import partial_of
from membound.bench.serving.answer import read_answer, read_stream
from membound.bench.serving.clocks import Clocks
from membound.bench.serving.raw import RawAnswer
from membound.bench.serving.schedule import LoadError
from membound.bench.serving.server_metrics import known_metrics, parse_metrics, server_facts
from membound.bench.serving.traces import read_trace
from membound.bench.serving.unpacking import unpack
from membound.errors import MemboundError
from membound.results.alternated import in_turn
from membound.results.compare import CompareError
from membound.results.fleet.device_run import device_runs
from membound.results.fleet.outliers import compare_fleet
from membound.results.fleet.record import fleet_record
from membound.results.gate import Rule
from membound.results.pairs import SIDES, NotPaired
from membound.results.predict.catalogue import Catalogue, HardwareError, load_catalogue
from membound.results.predict.demand import Measured
from membound.results.predict.forecast import Knowledge, Options, forecast
from membound.results.row import RowError
from membound.results.serving.compare import compare_points
from membound.results.serving.request import Request
from membound.results.serving.table import point_records
from membound.results.stats import plain, records
from membound.results.store import StoreError, load_rows
from membound.results.views import hardware as hardware_view
from membound.results.views import predict as predict_view
from membound.results.views.fleet import fleet_markdown, fleet_view
from membound.results.views.gate import gate_markdown, gate_record, gate_view
from membound.results.views.load_comparison import compare_points_view
from membound.results.views.serving import serving_view
from membound.results.views.serving_text import compare_points_markdown, points_markdown
from membound.results.views.tokens import tokens_lines

STEP = "step:model=llama-3-8b,weight=bf16"


@cache
def catalogue() -> Catalogue:
    """The devices that ship with the package."""
    return load_catalogue()


@cache
def known() -> Knowledge:
    """What the measurements that ship with the package teach."""
    return Knowledge.of(_published())


@cache
def _published() -> list[Measured]:
    return measured_rows(catalogue())[0]


def check_devices(content: bytes) -> None:
    """A file of devices is refused, or each can be shown and, of one in `EXPORTED`, predicted for."""
    with refusing(HardwareError):
        found = load_catalogue(written("devices.toml", content))
        own = [one for one in found.devices.values() if one != catalogue().devices.get(one.id)]
        hardware_view.table_lines(own)
        for one in own:
            hardware_view.device_lines(one)
            json.dumps(hardware_view.as_json(one), allow_nan=False)
            if shown(content):
                with refusing(HardwareError):
                    made = forecast(demand_of(STEP), one, known(), Options())
                    predict_view.forecast_lines(made)
                    json.dumps(predict_view.as_json(made), allow_nan=False)


def check_measurements(content: bytes) -> None:
    """A file of measurements is refused, or its rows have times and, one in `EXPORTED`, teach something."""
    with refusing(MeasuredError):
        rows, refused = measured_rows(catalogue(), written("rows.csv", content))
        assert all(0 < row.seconds < float("inf") for row in rows)
        assert all(why.strip() for _, why in refused)
        if shown(content):
            taught = Knowledge.of([*_published(), *rows])
            made = forecast(demand_of(STEP), catalogue().find("h100"), taught, Options())
            json.dumps(predict_view.as_json(made), allow_nan=False)


def check_trace(content: bytes) -> None:
    """A trace is refused, or its requests are in order and of sizes that can be added."""
    with refusing(LoadError):
        last = 0.0
        for one in islice(read_trace(written("trace", content)), 1000):
            assert last <= one.due_s < 1e16
            assert 0 <= one.prompt_tokens < 1 << 40
            assert 0 < one.output_tokens < 1 << 40
            last = one.due_s


def check_stream(content: bytes) -> None:
    """What a server sends is a request with an outcome, which can be stored."""
    raw = RawAnswer(0, sent_ns=1000, status=200, asked_tokens=3)
    raw.reads = [
        (2_000_000 * (at + 1), b"", content[at * 64 : at * 64 + 64]) for at in range(len(content) // 64 + 1)
    ]
    raw.finish("complete", 10**9)
    unpack(raw, Clocks())
    one = read_answer(raw, 0, 3, "a-secret-key")
    assert Request.from_fields(one.as_json()) == one
    assert all(-1 <= token < 1 << 31 for token in read_stream(raw).ids)
    assert "a-secret-key" not in one.reason


def check_metrics(content: bytes) -> None:
    """What a server says of itself are numbers that a row can hold."""
    before, after = (
        parse_metrics(part.decode(errors="replace"), known_metrics())
        for part in (content[: len(content) // 2], content)
    )
    json.dumps(server_facts(before, after), allow_nan=False)


def check_notes(content: bytes) -> None:
    """The notes of a fleet that was cut short are refused, or say what is left to do."""
    path = folder() / f"{FLEET}.jsonl"
    asked_path(path).write_bytes(content)
    partial_of(path).write_bytes(_fleet_rows())
    with refusing(FleetError, StoreError, RowError):
        _, ask, suites = find_fleet("latest", path.parent)
        with refusing(MemboundError):
            check(ask)
        assert summary(suites, Pace()) or not suites
        list(stragglers(suites))
        for one in suites:
            ask.order(one.run_id, one.device)
            assert "/" not in one.run_id
            assert assignments(FLEET, [one.node], {one.node.id: ["all"]}, {one.node.id: ""}, 1)


def check_views(content: bytes) -> None:
    """Rows are refused, or every command that reads rows in a way of its own says something of them or refuses them."""
    path = written("rows.jsonl", content)
    with refusing(RowError, StoreError):
        rows = load_rows(path)
        screen = Console(file=io.StringIO(), width=80)
        compared = compare_fleet(device_runs(rows), catalogue())
        json.dumps(fleet_record(compared), allow_nan=False)
        screen.print(fleet_view(compared)), fleet_markdown(compared)
        tokens_lines(rows)
        json.dumps(plain(point_records(rows)), allow_nan=False)
        screen.print(serving_view(rows)), points_markdown(rows)
        with refusing(CompareError):
            lines = records(compare_points(rows, rows))
            if lines:
                screen.print(compare_points_view(lines)), compare_points_markdown(lines)
        with refusing(EconomicsError):
            loaded_points(rows, 1)
        with refusing(HereError):
            heres_of(rows, catalogue())
        with refusing(NotPaired):
            verdict = judged_files(str(path), str(path), Rule(), {})
            screen.print(gate_view(verdict)), gate_markdown(verdict)
            json.dumps(gate_record(verdict), allow_nan=False)


# Seeds


def devices() -> list[bytes]:
    """A device in plain numbers, and some of those that ship with the package, with their sources."""
    plain_one = (
        b'[device.mine]\nname = "Mine"\nkind = "gpu"\nbandwidth_gb_per_s = 900\nmemory_gb = 48\nf16_tflops = 180\n'
        b'int8_tops = 360\npcie = "4 x8"\nchips_per_package = 2\naliases = ["M"]\nlacks = ["fp8"]\n'
        b'route = { torch = "cuda" }\n[device.h100_sxm]\nbandwidth_gb_per_s = 3000\n'
    )
    cited = (
        b'[source.X]\ntitle = "x"\nurl = "https://example.org"\ndate = "2026-01"\ntrust = "paper"\n'
        b'[device.mine]\nmemory_gb = [[48, "X", "of all"], [40, "X"]]\nbandwidth_gb_per_s = [["unknown"], [900, "X"]]\n'
        b'peer_gb_per_s = 50\nlink = "a ring"\nyear = 2026\ntdp_w = 300\nllc_mb = 40\n'
    )
    return [plain_one, cited]


def measurements() -> list[bytes]:
    """Some of the measurements that ship with the package."""
    head, *lines = BUILT_IN.read_bytes().splitlines(keepends=True)
    return [b"".join((head, *lines[at : at + 6])) for at in range(0, len(lines), 6)]


def traces() -> list[bytes]:
    """A trace of each format."""
    mooncake = b'{"timestamp": 3000, "input_length": 1024, "output_length": 52, "hash_ids": [0, 7]}\n'
    return [
        mooncake + mooncake.replace(b"3000", b"6000"),
        b"Timestamp,Session ID,Model,Request tokens,Response tokens,Total tokens,Log Type\n5,1,ChatGPT,472,18,490,x\n"
        b"45,1,ChatGPT,1087,0,1087,x\n118,1,GPT-4,417,276,693,x\n",
        b"TIMESTAMP,ContextTokens,GeneratedTokens\n2023-11-16 18:15:46.6805900,374,44\n"
        b"2023-11-16 18:15:50.9951690+00:00,396,109\n",
    ]


HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\n"


def streams() -> list[bytes]:
    """Answers of a completion, with ids and without, and of a chat; an error."""
    texts = [{"choices": [{"index": 0, "text": " a", "finish_reason": None}]}] * 3
    ids = [{"choices": [{"index": 0, "text": " a", "token_ids": [7], "finish_reason": None}]}] * 3
    chats = [{"choices": [{"index": 0, "delta": {"content": "a"}, "finish_reason": None}]}] * 3
    logs = [{"choices": [{"text": " a", "logprobs": {"content": [{"id": 7, "token": "a"}]}}]}] * 3
    last = {"choices": [{"index": 0, "text": "", "finish_reason": "length"}]}
    usage = {"choices": [], "usage": {"prompt_tokens": 5, "completion_tokens": 3}}
    found = [[*events, last, usage] for events in (texts, ids, chats, logs)]
    found.append([texts[0], {"error": {"message": "a-secret-key is no key", "code": 500}}])
    return [HEAD + b"".join(_event(one) for one in events) + b"data: [DONE]\n\n" for events in found]


def _event(body: object) -> bytes:
    return b"data: " + json.dumps(body).encode() + b"\n\n"


def other_stream(rng: Random, content: bytes) -> bytes:
    """Events with other bodies, or changed bytes."""
    if not rng.randrange(6):
        return mutation.damaged(rng, content)
    lines = content.split(b"\n")
    told = [at for at, line in enumerate(lines) if line.startswith(b"data: {")]
    for at in rng.choices(told, k=rng.choice((1, 1, 2))) if told else ():
        lines[at] = b"data: " + mutation.other_json(rng, lines[at].removeprefix(b"data: "), (1, 1, 2))
    return b"\n".join(lines)


def metrics() -> list[bytes]:
    """Two readings of counters, one after the other."""
    text = """vllm:num_preemptions_total{engine="0"} 1.0
vllm:cache_config_info{block_size="128",cache_dtype="auto",engine="0"} 1.0
vllm:inter_token_latency_seconds_count{engine="0"} 5.0
vllm:inter_token_latency_seconds_sum{engine="0"} 0.05
vllm:iteration_tokens_total_count{engine="0"} 10.0
vllm:iteration_tokens_total_sum{engine="0"} 40.0
"""
    return [(text + text).encode(), text.replace("vllm:", "llamacpp:").encode() * 2]


def other_metrics(rng: Random, content: bytes) -> bytes:
    """Other numbers, or changed bytes."""
    if not rng.randrange(3):
        return mutation.damaged(rng, content)
    lines = content.split(b"\n")
    for _ in range(rng.choice((1, 2, 4))):
        at = rng.randrange(len(lines))
        number = rng.choice((b"0", b"-1", b"NaN", b"+Inf", b"1e308", b"1e-320", b"9" * 400, b"x", b""))
        lines[at] = lines[at].rpartition(b" ")[0] + b" " + number
    return b"\n".join(lines)


@cache
def _notes() -> tuple[bytes, bytes]:
    """The notes and the rows of a fleet of two suites that was cut short."""
    with TemporaryDirectory() as place:
        path, suites = Path(place) / f"{FLEET}.jsonl", assigned(2)
        with FleetFile(path, ASK) as file:
            for one in suites:
                file.note(one)
            file.keep((suites[0], rows_of(suites[0], [lined(suites[0].run_id, case) for case in CASES[:2]])))
            suites[1].state, suites[1].doing = "failed", "its node died"
            file.note(suites[1])
        return asked_path(path).read_bytes(), partial_of(path).read_bytes()


def _fleet_rows() -> bytes:
    return _notes()[1]


def notes() -> list[bytes]:
    """What a fleet keeps of what it was asked for, and of who is through."""
    return [_notes()[0]]


def views() -> list[bytes]:
    """Rows of a fleet, of a gate, of loads, and of backends that tell their tokens."""
    fleet = fleet_rows(4, slow={2: 0.8})
    turned = [
        in_turn(case("alpha:cpu", samples=(0.01 + 0.001 * number,), config={"graph_nodes": 3}), side, number)
        for number in range(6)
        for side in SIDES
    ]
    loads = [point_row(users, 1e-3 * users) for users in (1, 2, 4, 8)]
    truth = {"truth": {"requests": 2, "tokens": 6}, "slo": "ttft=500,tpot=30"}
    loads += [replace(one, replicate=1, config=one.config | truth) for one in loads[:2]]
    tokens = [case(f"{name}:cpu", "step:model=tiny", config={"greedy_tokens": [7, 8]}) for name in ("a", "b")]
    apart = [ceiling("read", 1e10, "bytes/s"), *tokens]
    return ["\n".join(row.to_json() for row in rows).encode() for rows in (fleet, turned, loads, apart)]


READERS: Sequence[Target] = (
    Target("devices", devices, other_register, check_devices),
    Target("measurements", measurements, mutation.other_file, check_measurements),
    Target("traces", traces, mutation.other_file, check_trace),
    Target("streams", streams, other_stream, check_stream),
    Target("metrics", metrics, other_metrics, check_metrics),
    Target("fleets", notes, mutation.other_lines, check_notes),
    Target("views", views, mutation.other_lines, check_views),
)
