"""Texts made by their grammar, right or nearly so: specs of works, lines of TOML, command lines.

>>> other_spec(Random(3), b"linear:n=64,k=64")
b'step:model=tiny,kv=int8,batch=+5'
"""

from __future__ import annotations

from functools import cache
from random import Random
from typing import Any

from mutation import damaged
from typer.main import get_command

from membound.bench import cli
from membound.kernels.onnx_step import EXAMPLE
from membound.kernels.work import KINDS

BASES = {
    "linear": "n=64,k=64",
    "attention": "context=64",
    "mla": "context=64",
    "experts": "hidden=64,width=64",
    "step": "model=tiny",
    "prefill": "model=tiny",
    "onnx": f"file={EXAMPLE}",
}
KEYS = (
    *(
        "n",
        "k",
        "m",
        "weight",
        "act",
        "context",
        "q_heads",
        "kv_heads",
        "head_dim",
        "batch",
        "kv",
        "page",
        "model",
    ),
    *("layers", "cache", "tokens", "queries", "file", "content"),
    *("hidden", "width", "count", "chosen", "distinct"),
)
VALUES = (
    *(
        "1",
        "2",
        "32",
        "128",
        "4096",
        "0",
        "-1",
        "+5",
        "1_000",
        "٣",
        "²",
        "00064",
        "1e3",
        "10**18",
        "1000000000000000000",
    ),
    *(
        "2147483648",
        "2147483649",
        "99999999999999999999999999",
        "9" * 4301,
        "f32",
        "bf16",
        "f16",
        "int8",
        "int4g32",
    ),
    *(
        "int4g128",
        "int4g32z",
        "int4g128z",
        "q8_0",
        "q4_0",
        "q4_k",
        "fp8g128",
        "fp8b128",
        "mxfp4",
        "stored",
        "fp8",
        "float",
        "tiny",
        "llama-3-8b",
        "gpt-3-175b",
        "prompt",
        "random",
        ".",
        " ",
        "",
        "\x00",
        "a\x00b",
    ),
    *("~", "..", "/dev/zero", "x" * 300, "é", "\udcff", "qwen2.5-0.5b"),
)


def other_spec(rng: Random, content: bytes) -> bytes:
    """A spec that the grammar gives, or the one at hand with changed bytes."""
    if not rng.randrange(5):
        return damaged(rng, content)
    kind = rng.choice((*KINDS, "linear", "step", "Linear", "", " linear"))
    parts = [BASES[kind.strip()]] if kind.strip() in BASES and rng.randrange(5) else []
    for _ in range(rng.randrange(6)):
        parts.append(
            rng.choice(KEYS) + rng.choice(("=", "=", "=", "=", "", "==", " = ")) + rng.choice(VALUES)
        )
    text = (
        kind
        + rng.choice((":", ":", ":", ":", "", "::"))
        + rng.choice((",", ",", ", ", ",,", ";")).join(parts)
    )
    return text.encode("utf-8", "surrogateescape")


SETTINGS = (
    *(
        b"5",
        b"-1",
        b"0",
        b"1e9",
        b"nan",
        b"inf",
        b'"x"',
        b'"{0}"',
        b'"{rise.__class__}"',
        b'"{rise!r:>99999999}"',
        b'"{a[b]}"',
    ),
    *(
        b'"{"',
        b"[]",
        b"{}",
        b"[1]",
        b"true",
        b"1e400",
        b"9" * 5000,
        b"1979-05-27",
        b'"{rise:%s}"',
        b'"{rise:d}"',
    ),
    *(b"{ processes = 3, doses = 3 }", b"{ processes = true, doses = nan }", b'{ a = "b" }', b"{ a = 1 }"),
)


def other_register(rng: Random, content: bytes) -> bytes:
    """A file of TOML with other lines or other values, or with changed bytes."""
    if not rng.randrange(5):
        return damaged(rng, content)
    lines = content.split(b"\n")
    for _ in range(rng.choice((1, 1, 2, 3))):
        at, what = rng.randrange(len(lines)), rng.randrange(10)
        if what == 0:
            del lines[at]
        elif what == 1:
            lines.insert(at, rng.choice(lines))
        elif b"=" in lines[at]:
            lines[at] = lines[at].split(b"=")[0] + b"= " + rng.choice(SETTINGS)
    return b"\n".join(lines)


COMPILES = "cuda-build"
"""The one command that does its work even where nothing is measured."""


@cache
def commands() -> dict[str, tuple[str, ...]]:
    """Every command with its options, as the application declares them; '' for the application itself."""
    app: Any = get_command(cli.app)
    found = {"": app} | {name: one for name, one in app.commands.items() if name != COMPILES}
    parts = {name: [one, *getattr(one, "commands", {}).values()] for name, one in found.items() if name}
    parts[""] = [app]
    return {
        name: (
            "--help",
            "--",
            *(text for one in several for given in one.params for text in given.opts if text[0] == "-"),
        )
        for name, several in parts.items()
    }


ARGUMENTS = (
    *(
        "latest",
        "",
        "x",
        "..",
        "\ud800",
        "a" * 300,
        "-1",
        "0",
        "1",
        "2",
        "999999999999999999999",
        "1e3",
        "nan",
        "high",
    ),
    *(
        "normal",
        "/dev/null",
        "/proc/self",
        "/dev/zero",
        "linear:n=4,k=4",
        "linear:n=64,k=64,weight=f32",
        "step:model=tiny",
    ),
    *(
        "step:model=/",
        "attention:context=5,",
        "numpy",
        "numpy:cpu",
        "numba:cuda+graph",
        "numpy:cpu#2",
        "numpy=/bin/sh",
        "=",
    ),
    *(
        "[red]",
        "[/]",
        "\x1b[31m",
        "20261128",
        "list",
        "create",
        "vllm",
        "é",
        "*",
        "1,4",
        "a\nb",
        "runs",
        "claim-x.jsonl",
    ),
    *(
        "llama-3-8b",
        "tiny",
        "h100",
        "h100,h200",
        "bandwidth",
        "memory_gb>=80 and kind=gpu",
        "1..256",
        "1/2",
        "5%",
    ),
    *(
        "http://127.0.0.1:9/v1",
        "2026-11-28",
        "page.html",
        "pipe",
        "rows.csv",
        "backend",
        "device",
        "list",
        "-",
    ),
    *("normal:100,20", "poisson", "closed", "ttft=200,itl=50", "vllm", "llamacpp", "NAME=VALUE", "bf16,int8"),
)


def other_arguments(rng: Random, content: bytes) -> bytes:
    """A command with options and values that go with it or not, joined by NUL."""
    if not rng.randrange(10):
        return damaged(rng, content)
    name = rng.choice(list(commands()))
    words = [name]
    for _ in range(rng.randrange(6)):
        option = rng.randrange(9) < 4
        own = commands()[name] if rng.randrange(8) else rng.choice(list(commands().values()))
        words.append(rng.choice(own if option else ARGUMENTS))
    return "\0".join(words).encode("utf-8", "surrogatepass")
