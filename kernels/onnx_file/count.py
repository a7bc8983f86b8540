"""The bill of a step of an exported decoder: bytes by what they are, FLOPs, and what processors make of its formats.

>>> bill_of(Path("model.onnx"), batch=1, context=1024).weights_bytes
5747712

Counted by a walk through shapes. Where the bytes depend on numbers (which experts a router chooses), the step is computed once
in float64 on the inputs of `ROUTED_SEED`, which are then those of every launch.
"""

from __future__ import annotations

import os
from collections import Counter
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np

from membound.kernels.model import ModelError
from membound.kernels.onnx_file.decoder import Cache, OnnxDecoder
from membound.kernels.onnx_file.feeds import cache_values, shape_feeds, small_feeds
from membound.kernels.onnx_file.graph import Graph, OnnxFile, graphs_of
from membound.kernels.onnx_file.numbers import Array
from membound.kernels.onnx_file.opened import open_decoder
from membound.kernels.onnx_file.operators import NumbersNeeded
from membound.kernels.onnx_file.read import read
from membound.kernels.onnx_file.tally import Tally
from membound.kernels.onnx_file.walk import Walked, walk
from membound.kernels.weights.formats import from_bf16

ROUTED_SEED = 1
INTEGER_PRODUCTS = ("DynamicQuantizeMatMul", "MatMulInteger", "MatMulIntegerToFloat")
QUANTISED_LEVEL = 4
"""accuracy_level of MatMulNBits and QMoE at which ONNX Runtime quantises activations to int8; unset it does not (1.31, x86)."""
FORMATS = {"float": "f32", "float16": "f16", "bfloat16": "bf16", "float8e4m3fn": "fp8", "int8": "int8"}
FORMATS |= {"double": "f64", "uint8": "int8", "int4": "int4", "uint4": "int4"}


@dataclass(frozen=True, slots=True)
class Bill:
    """What a step of a file is: its content, its formats, and all that it moves. Bytes but for `flops`, `layers`, `vocab`.

    `copied_bytes` is what operators that join past and new rows read and write beyond the cache; `float16_bytes` the matrices in
    float16; `routed` whether bytes depend on a router.
    """

    content: str
    layers: int
    vocab: int
    weight: str
    kv: str
    act: str
    weights_bytes: int
    scales_bytes: int
    kv_read_bytes: int
    kv_written_bytes: int
    activations_read_bytes: int
    activations_written_bytes: int
    flops: int
    resident_bytes: int
    copied_bytes: int
    float16_bytes: int
    routed: bool
    data_files: tuple[Path, ...] = ()


def bill_of(path: Path, batch: int, context: int) -> Bill:
    """The bill of the file as it is now. Raises ModelError that names the file and what is wrong or not supported."""
    return _bill(path, stamp_of(path), batch, context)


def stamp_of(path: Path) -> tuple[str, ...]:
    """What changes when the file does: where it really is, its size and its time."""
    try:
        stat = os.stat(path)
    except (OSError, ValueError):
        return ()
    return os.path.realpath(path), str(stat.st_size), str(stat.st_mtime_ns)


@lru_cache(maxsize=64)
def _bill(path: Path, stamp: tuple[str, ...], batch: int, context: int) -> Bill:
    decoder = open_decoder(path)
    file, routed = decoder.file, False
    try:
        known = frozenset(decoder.inputs)
        tally = walk(file, shape_feeds(decoder, batch, context), numbers=False, known=known).tally
    except NumbersNeeded:
        routed = True
        tally = walk_step(decoder, batch, context, ROUTED_SEED).tally
    return _made(file, decoder, tally, batch, context, routed)


def check_numbers(path: Path) -> None:
    """Read every real number of the file once. Raises ModelError that names a tensor that holds NaN."""
    _check_numbers(path, stamp_of(path))


@lru_cache(maxsize=32)
def _check_numbers(path: Path, stamp: tuple[str, ...]) -> None:
    file = read(path)
    for one in (one for graph in graphs_of(file.graph) for one in graph.stored.values()):
        try:
            damaged = one.kind.is_float and bool(np.isnan(one.load()).any())
        except OSError as error:
            raise ModelError(f"{path}: {one.name!r:.60} cannot be read: {error.strerror}") from None
        if damaged:
            raise ModelError(
                f"{path}: the tensor {one.name!r:.60} holds NaN (not a number): the file is damaged"
            )


def walk_step(decoder: OnnxDecoder, batch: int, context: int, seed: int) -> Walked:
    """A step in float64. Raises ModelError."""
    caches = {cache.name: _wide(cache, cache_values(cache, batch, context, seed)) for cache in decoder.caches}
    return walk(decoder.file, small_feeds(decoder, batch, context, seed) | caches, numbers=True)


def _wide(cache: Cache, values: Array) -> Array:
    return from_bf16(values) if cache.format == "bf16" else values


def _made(file: OnnxFile, decoder: OnnxDecoder, tally: Tally, batch: int, context: int, routed: bool) -> Bill:
    read_bytes = {cache: _token_bytes(cache, batch) * cache.held(context) for cache in decoder.caches}
    written = sum(_token_bytes(cache, batch) for cache in decoder.caches)
    copied = sum(2 * count for cache, count in read_bytes.items() if not cache.present)
    stored = [one for graph in graphs_of(file.graph) for one in graph.stored.values()]
    formats = Counter[str]()
    for one in stored:
        if one.name in tally.reads and one.name not in tally.scales:
            formats[FORMATS.get(one.kind.name, one.kind.name)] += tally.reads[one.name]
    act = "int8" if any(_quantises(graph) for graph in graphs_of(file.graph)) else "float"
    weight = formats.most_common(1)[0][0] if formats else ""
    if not weight:
        raise ModelError(f"{file.path} reads no weights: it is no decoder")
    return Bill(
        content=file.content,
        layers=decoder.layers,
        vocab=decoder.vocab,
        weight="int4" if weight == "int8" and _packs_four(file.graph) else weight,
        kv=decoder.caches[0].format,
        act=act,
        weights_bytes=tally.bytes_of(scales=False),
        scales_bytes=tally.bytes_of(scales=True),
        kv_read_bytes=sum(read_bytes.values()),
        kv_written_bytes=written,
        activations_read_bytes=tally.activations_read,
        activations_written_bytes=tally.activations_written,
        flops=tally.flops,
        resident_bytes=sum(one.nbytes for one in stored),
        copied_bytes=copied,
        float16_bytes=tally.float16_bytes,
        routed=routed,
        data_files=file.data_files,
    )


def _token_bytes(cache: Cache, batch: int) -> int:
    """Bytes of a token of every sequence."""
    numbers = 1
    for axis, dim in enumerate(cache.shape(batch, 1)):
        numbers *= 1 if axis == cache.axis else dim
    return cache.declared.kind.bytes_of(numbers)


def _quantises(graph: Graph) -> bool:
    """Whether a product in it is one of integers on a processor.

    ONNX Runtime makes a MatMulNBits of `QUANTISED_LEVEL` of a product with a matrix of four bits dequantised in blocks (1.31, x86).
    """
    blocks = {
        node.outputs[0]
        for node in graph.nodes
        if node.op == "DequantizeLinear"
        and node.attributes.get("block_size")
        and (stored := graph.stored.get(node.inputs[0])) is not None
        and stored.kind.bits == 4
    }
    return any(
        node.op in INTEGER_PRODUCTS
        or (node.op in ("MatMulNBits", "QMoE") and node.attributes.get("accuracy_level") == QUANTISED_LEVEL)
        or (node.op == "MatMul" and node.inputs[1] in blocks)
        for node in graph.nodes
    )


def _packs_four(graph: Graph) -> bool:
    """Whether most of what packs numbers into bytes packs two into one."""
    bits = [
        node.attributes.get("bits", node.attributes.get("expert_weight_bits", 4))
        for one in graphs_of(graph)
        for node in one.nodes
        if node.op in ("MatMulNBits", "QMoE")
    ]
    return bool(sum(count == 4 for count in bits) * 2 > len(bits) > 0)
