"""Every format of another tool that can be read, and finding out which one a file has.

>>> found = read_foreign(Path("results.json"))
>>> found.format.name, len(found.rows), found.contradictions
('aiperf', 7, [])

A new format is a file in this folder and a line in FORMATS.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from membound.results.exchange import (
    aiperf,
    babelstream,
    backend_ops,
    google_benchmark,
    guidellm,
    llama_bench,
    mlperf,
    nvbandwidth,
    nvbench,
    optimum_benchmark,
    pytest_benchmark,
    sglang_serving,
    vllm_bench,
)
from membound.results.exchange.document import Document, read_document
from membound.results.exchange.measurement import Source
from membound.results.row import Row, RowError


@dataclass(frozen=True, slots=True)
class Format:
    """One kind of file: what it is called, whether a document is one, and its rows."""

    name: str
    recognises: Callable[[Document], bool]
    rows: Callable[[Source], list[Row]]


@dataclass(frozen=True, slots=True)
class Import:
    """What became of a file. `contradictions` are those of the file and of its rows."""

    format: Format
    run_id: str
    rows: list[Row]
    contradictions: list[str]


def _pytest_rows(source: Source) -> list[Row]:
    return pytest_benchmark.rows_from(source.document.path, source.document.run_id)


FORMATS = (
    Format("vllm-bench-serve", vllm_bench.is_serve, vllm_bench.serve_rows),
    Format("vllm-bench-latency", vllm_bench.is_latency, vllm_bench.latency_rows),
    Format("vllm-bench-throughput", vllm_bench.is_throughput, vllm_bench.throughput_rows),
    Format("sglang-serving", sglang_serving.is_serving, sglang_serving.rows_of),
    Format("llama-bench", llama_bench.recognises, llama_bench.rows_of),
    Format("test-backend-ops", backend_ops.recognises, backend_ops.rows_of),
    Format("guidellm", guidellm.is_report, guidellm.rows_of),
    Format("aiperf-json", aiperf.is_json, aiperf.json_rows),
    Format("aiperf-jsonl", aiperf.is_lines, aiperf.lines_rows),
    Format("aiperf-csv", aiperf.is_csv, aiperf.csv_rows),
    Format("genai-perf", aiperf.is_genai_perf, aiperf.genai_perf_rows),
    Format("optimum-benchmark", optimum_benchmark.recognises, optimum_benchmark.rows_of),
    Format("google-benchmark", google_benchmark.recognises, google_benchmark.rows_of),
    Format("nvbench", nvbench.recognises, nvbench.rows_of),
    Format("pytest-benchmark", pytest_benchmark.recognises, _pytest_rows),
    Format("babelstream", babelstream.recognises, babelstream.rows_of),
    Format("nvbandwidth", nvbandwidth.recognises, nvbandwidth.rows_of),
    Format("mlperf-summary", mlperf.is_summary, mlperf.summary_rows),
    Format("mlperf-detail", mlperf.is_detail, mlperf.detail_rows),
)


def is_foreign(path: Path) -> bool:
    """Whether a file is of a format that is known here; one that cannot be read as text is not. Raises OSError."""
    try:
        return _format_of(read_document(path)) is not None
    except RowError:
        return False


def _format_of(document: Document) -> Format | None:
    """The format whose marks the document has. Raises RowError on a table whose lines differ in width."""
    for one in FORMATS:
        try:
            if one.recognises(document):
                return one
        except (AttributeError, IndexError, KeyError, TypeError):
            continue  # a field of another type than any file of that format has
    return None


def read_foreign(path: Path) -> Import:
    """The rows of another tool's file. Raises RowError, which names the file and what is wrong, and OSError."""
    document, found = read_document(path), None
    try:
        found = _format_of(document)
        if found is None:
            raise RowError(_unknown(document))
        source = Source(found.name, document)
        rows = found.rows(source)
        if not rows:
            raise RowError(f"it is a file of {found.name} and holds no result")
    except RowError as error:
        raise RowError(str(error) if str(error).startswith(str(path)) else f"{path}: {error}") from None
    except (ArithmeticError, AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
        # Fields of another type than the tool writes: a truncated or edited file that still has the marks of the format.
        name = found.name if found else "another tool"
        raise RowError(f"{path} is not a whole file of {name}: {error!r}"[:300]) from None
    return Import(found, document.run_id, rows, [*source.contradictions, *_of_rows(rows)])


def _unknown(document: Document) -> str:
    if document.json_error:
        return f"it is not JSON: {document.json_error}"
    return f"it has none of the formats that can be read: {', '.join(one.name for one in FORMATS)}"


def _of_rows(rows: list[Row]) -> list[str]:
    """Each contradiction once, with the row that has it first."""
    found: dict[str, str] = {}
    for row in rows:
        for text in row.config.get("contradictions") or ():
            found.setdefault(str(text), row.work)
    return [f"{work}: {text}" for text, work in found.items()]
