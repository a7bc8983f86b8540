"""What is fuzzed: how inputs are made from seeds, and what must hold of each.

>>> TARGETS["rows"].check(b'{"schema_version":99}')         # refused as documented: nothing happens

A check takes the bytes of one input. It passes over the errors that are documented for it and lets every other exception
through: that is a finding. Warnings of libraries count as exceptions.
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import Any
from unittest import mock
from zlib import crc32

import mutation
import seeds
from gguf_headers import other_gguf
from grammar import other_arguments, other_register, other_spec
from onnx_files import other_onnx
from readers import READERS
from rich.console import Console
from sealed_files import other_folder, other_journal, other_plan
from tables import TABLES
from target import EXPORTED, MEMORY_BYTES, Target, folder, refusing, shown, written

from membound.bench.claim import map_grid
from membound.bench.claim.report import judged
from membound.bench.machine.fingerprint import fingerprint
from membound.bench.planning.file_facts import FileFacts
from membound.bench.planning.model_facts import ModelFacts
from membound.bench.planning.suites import PlanError, check_memory, check_weights
from membound.bench.protocol import messages
from membound.bench.run import resume
from membound.bench.run.journal import Journal, journal_of
from membound.bench.run.resume import PLAN, check_resumable, find_cut, partial_of, remaining
from membound.kernels.model import ModelError
from membound.kernels.onnx_file.feeds import shape_feeds
from membound.kernels.onnx_file.graph import OnnxFile, Stored, graphs_of
from membound.kernels.onnx_file.opened import open_decoder
from membound.kernels.onnx_file.operators import NumbersNeeded
from membound.kernels.onnx_file.walk import walk
from membound.kernels.served import ServedStep
from membound.kernels.weights.checkpoint import Checkpoint
from membound.kernels.work import SpecError, Step, parse
from membound.results.checksum import sealed, unsealed
from membound.results.claim import file as claim_file
from membound.results.claim.experiments import ExperimentsError, Register, load_experiments
from membound.results.claim.file import load_claim
from membound.results.claim.observation import ClaimMeta, Observation, ObservationError
from membound.results.claim.region import RegionPoint
from membound.results.compare import CompareError, compare_backends, compare_runs
from membound.results.exchange.csv_file import csv_text
from membound.results.exchange.junit import junit_text
from membound.results.exchange.openmetrics import openmetrics_text
from membound.results.report.curves import (
    batch_table,
    elasticity_table,
    free_compute_table,
    region_table,
    residency_table,
    theft_table,
)
from membound.results.report.markdown import claim_markdown
from membound.results.report.page import page_html
from membound.results.report.text import record
from membound.results.report.whole import whole_report, with_charts
from membound.results.report.whole_markdown import report_markdown
from membound.results.row import Row, RowError
from membound.results.stats import records, summarize
from membound.results.store import StoreError, load_rows
from membound.results.views.comparison import comparison_markdown, comparison_view
from membound.results.views.markdown import run_markdown
from membound.results.views.table import run_view

FORMATS = ("stored", "f32", "stored", "int8", "stored", "int4g32")
"""Weight formats in which folders and files are read."""


def check_work(content: bytes) -> None:
    """A spec is refused, or its work has bytes and FLOPs and says the spec again."""
    with refusing(SpecError):
        work = parse(content.decode("utf-8", "surrogateescape"))
        assert work.traffic.total_bytes > 0
        assert work.flops > 0
        assert work.footprint_bytes > 0
        again = parse(work.spec)
        assert again == work
        assert again.spec == work.spec
        with refusing(PlanError):
            check_memory(work, MEMORY_BYTES)


def check_row(content: bytes) -> None:
    """A line is refused, or its row can be stored and read again."""
    with refusing(RowError):
        row = Row.from_json(content.decode(errors="replace"))
        line = row.to_json()
        assert unsealed(sealed(line.encode())).decode() == line
        assert Row.from_json(line) == row


def check_claim_line(content: bytes) -> None:
    """A line of a claim file likewise."""
    text = content.decode(errors="replace")
    for kind in (Observation, ClaimMeta):
        with refusing(ObservationError):
            one = kind.from_json(text)
            assert kind.from_json(one.to_json()) == one


def check_run(content: bytes) -> None:
    """A file is refused, or every view of its rows can be made."""
    name = "run.json" if content.lstrip()[:14].startswith(b'{"benchmarks"') else "run.jsonl"
    with refusing(RowError, StoreError):
        rows = load_rows(written(name, content))
        screen = Console(file=io.StringIO(), width=80)
        json.dumps(records(summarize(rows)), allow_nan=False)
        screen.print(run_view(rows, True))
        run_markdown(rows)
        backends = list(dict.fromkeys(row.backend for row in rows if row.kind == "case"))[:2]
        for make in (lambda: compare_backends(rows, *backends), lambda: compare_runs(rows, rows)):
            if len(backends) == 2:
                with refusing(CompareError):
                    found = make()
                    parts = [records(part) for part in (found.table, found.groups, found.without_partner)]
                    json.dumps(parts, allow_nan=False)
                    screen.print(comparison_view(*parts, found.doubt))
                    comparison_markdown(*parts, found.doubt)


def check_page(content: bytes) -> None:
    """Rows and points of load are refused, or become a page and Markdown, and in one of `EXPORTED` charts."""
    with refusing(RowError, StoreError):
        rows = load_rows(written("run.jsonl", content))
        report = whole_report(rows, [])
        page = page_html(report)
        assert page.count("<script") == page.count("</script") == 1
        report_markdown(report, rows, {})
        if shown(content):
            for figure in with_charts(report).figures:
                assert figure.absent or figure.chart.to_dict()


def check_benchmarks(content: bytes) -> None:
    """A file of pytest-benchmark is refused, or its rows can be stored."""
    with refusing(RowError):
        for row in load_rows(written("bench.json", content)):
            assert Row.from_json(row.to_json()) == row


def check_foreign(content: bytes) -> None:
    """A file of another tool is refused, or its rows can be stored and, of one in `EXPORTED`, exported in one of three forms."""
    with refusing(RowError, StoreError):
        rows = load_rows(written("results.txt", content))
        assert [Row.from_json(row.to_json()) for row in rows] == rows
        if shown(content):
            (csv_text, junit_text, openmetrics_text)[crc32(content) // EXPORTED % 3](rows)


@cache
def register() -> Register:
    """The experiments by which claims are judged."""
    return load_experiments()


@cache
def _lines_of_claims() -> frozenset[str]:
    return frozenset(line.decode() for content in seeds.claims() for line in content.split(b"\n"))


_parsed = claim_file._parsed
_parsed_once = cache(_parsed)


def _read(line: str) -> ClaimMeta | Row | Observation:
    """Of a claim file. A line that no change has touched is parsed once a process."""
    return (_parsed_once if line in _lines_of_claims() else _parsed)(line)


@cache
def _grid(model: str) -> tuple[RegionPoint, ...]:
    """Every seventh point of a map, which no claim changes: each batch, context and format is among them."""
    return _whole_grid(model)[::7]


_whole_grid = map_grid._grid


def check_claim(content: bytes) -> None:
    """A claim file is refused, or judged and, one in `EXPORTED`, reported as JSON, Markdown and HTML."""
    with (
        refusing(ObservationError, RowError, StoreError),
        mock.patch.object(claim_file, "_parsed", _read),
        mock.patch.object(map_grid, "_grid", _grid),
    ):
        report = judged(load_claim(written("claim-x.jsonl", content)), register())
        if not shown(content):
            return
        json.dumps(record(report), allow_nan=False)
        claim_markdown([report], {})
        page_html(whole_report([], [report]))
        for draw in (free_compute_table, batch_table, residency_table, theft_table):
            draw(report.claim.observations)
        elasticity_table(report.findings), region_table(report.cells)


def check_model_folder(content: bytes) -> None:
    """A folder is refused as a model, to count or to run, or as weights, or all can be used."""
    place = folder() / "model"
    place.mkdir(exist_ok=True)
    names = ("config.json", "model.safetensors", "model.safetensors.index.json")
    for name, part in zip(names, ([*content.split(seeds.PARTS, 2), b"", b""])[:3], strict=True):
        (place / name).unlink(missing_ok=True)  # a file of weights may still be mapped: never write into it
        if part:
            (place / name).write_bytes(part)
    with refusing(SpecError, ModelError):
        served = ServedStep(str(place), context=8)
        assert served.streamed_bytes > 0
        assert served.cache_bytes > 0
        assert served.flops > 0
    with refusing(SpecError, ModelError):
        facts = ModelFacts.of(str(place))
        assert all(facts.lines())
        json.dumps(facts.as_json(), allow_nan=False)
    _check_step(place, crc32(content))


def check_gguf(content: bytes) -> None:
    """A GGUF file is refused, or can be used as weights."""
    path = written(
        f"{crc32(content):x}.gguf", content
    )  # headers are remembered by name, size and time of change
    try:
        _check_step(path, crc32(content))
    finally:
        path.unlink()


def _check_step(place: Path, number: int) -> None:
    """A step over a folder or a file, as it is stored or in one of some formats, is refused or can be prepared."""
    with refusing(SpecError, PlanError):
        work = parse(f"step:model={place},context=8,weight={FORMATS[number % len(FORMATS)]}")
        assert work.traffic.total_bytes > 0
        assert work.flops > 0
        check_memory(work, MEMORY_BYTES)
        check_weights(work, 1)
        if isinstance(work, Step) and work.footprint_bytes < MEMORY_BYTES // 100:
            with refusing(ValueError):  # numbers are read by workers, where it becomes a row
                weights = Checkpoint(work.shape, work.weight, 1)
                weights.layer(0), weights.lm_head(), weights.final_norm()


def check_experiments(content: bytes) -> None:
    """A register is refused, or its texts have their numbers."""
    with refusing(ExperimentsError):
        for one in load_experiments(written("experiments.toml", content)):
            assert one.falsified_if
            assert one.processes >= 1
            assert one.doses >= 1


@contextmanager
def _same_machine() -> Iterator[None]:
    """What the system says of itself takes longer to read than a plan, and no plan changes it."""
    with (
        mock.patch.object(resume, "fingerprint", _fingerprint),
        mock.patch.object(resume, "available_memory_bytes", _memory_bytes),
    ):
        yield


def _memory_bytes() -> int:
    return MEMORY_BYTES


@cache
def _fingerprint() -> dict[str, Any]:
    return fingerprint()


def check_plan(content: bytes) -> None:
    """The plan of a killed run is refused, or the run can be resumed."""
    path = written(f"run.jsonl{PLAN}", content).with_name("run.jsonl")
    partial_of(path).touch()
    with refusing(PlanError, StoreError, SpecError), _same_machine():
        plan, _ = find_cut("latest", path.parent)
        cells = remaining(plan, [])
        assert plan.total_cells >= 0
        plan.python_for("numpy:cpu")
        check_resumable(cells, [], plan.seed)


def check_journal(content: bytes) -> None:
    """The turns that a killed run left are refused, or read."""
    path = folder() / "journal.jsonl"
    journal_of(path).write_bytes(content)
    with refusing(RowError, StoreError), Journal(path) as journal:
        for (backend, replicate, work), turns in journal.left.items():
            for turn in turns:
                journal.add(backend, replicate, work, turn)


def check_message(content: bytes) -> None:
    """A line between harness and worker is refused, or can be sent again."""
    for known in (messages.COMMANDS, messages.ANSWERS):
        with refusing(messages.ProtocolError):
            message, number = messages.decode(content.decode(errors="replace"), known)
            assert messages.decode(messages.encode(message, number), known) == (message, number)


def check_arguments(content: bytes) -> None:
    """A command line that measures nothing ends with a documented exit status."""
    from command_line import status_of

    with refusing():
        status, printed = status_of(content.decode("utf-8", "surrogateescape").split("\0"))
        assert status in (0, 1, 2), status
        assert status != 2 or printed.count("\n") >= 1, printed


def check_onnx(content: bytes) -> None:
    """An ONNX file is refused, or its step has weights, a cache and FLOPs; one of `EXPORTED` is described."""
    with refusing(ModelError):
        decoder = open_decoder(written("model.onnx", content))
        file = decoder.file
        fed = shape_feeds(decoder, 2, 5)
        with suppress(NumbersNeeded):  # what a router chooses takes a step in numbers
            tally = walk(file, fed, numbers=False, known=frozenset(decoder.inputs)).tally
            assert all(count >= 0 for count in tally.reads.values())
            assert tally.bytes_of(False) + tally.bytes_of(True) <= sum(one.nbytes for one in stored_of(file))
    if shown(content):
        described = FileFacts.of(str(folder() / "model.onnx"))
        assert all(described.lines())
        json.dumps(described.as_json(), allow_nan=False)


def stored_of(file: OnnxFile) -> list[Stored]:
    """Every tensor of the file."""
    return [one for graph in graphs_of(file.graph) for one in graph.stored.values()]


TARGETS = {
    target.name: target
    for target in (
        Target("works", seeds.works, other_spec, check_work),
        Target("rows", seeds.rows, mutation.other_json, check_row),
        Target("runs", seeds.runs, mutation.other_lines, check_run),
        Target("pages", seeds.pages, mutation.other_lines, check_page),
        Target("claim-lines", seeds.claim_lines, mutation.other_json, check_claim_line),
        Target("claims", seeds.claims, mutation.other_lines, check_claim),
        Target("benchmarks", seeds.benchmarks, mutation.other_json, check_benchmarks),
        Target("foreign", seeds.foreign, mutation.other_file, check_foreign),
        Target("models", seeds.model_folders, other_folder, check_model_folder),
        Target("gguf", seeds.gguf_models, other_gguf, check_gguf),
        Target("onnx", seeds.onnx_files, other_onnx, check_onnx),
        Target("experiments", seeds.experiments, other_register, check_experiments),
        Target("plans", seeds.plans, other_plan, check_plan),
        Target("journals", seeds.journals, other_journal, check_journal),
        Target("messages", seeds.protocol, mutation.other_json, check_message),
        Target("arguments", seeds.arguments, other_arguments, check_arguments),
        *READERS,
        *TABLES,
    )
}
