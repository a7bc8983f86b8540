"""An ONNX file as a decoder that can be stepped: read, its operators known, every size of its caches told.

>>> open_decoder(Path("model.onnx")).layers
16

onnxruntime-genai's builder names even the width of heads instead of giving it. It follows from the operators: a walk through shapes
with any width ends in a new cache of the right one.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from membound.kernels.model import ModelError
from membound.kernels.onnx_file.decoder import GROUP_QUERY, Cache, OnnxDecoder, decoder_of
from membound.kernels.onnx_file.feeds import shape_feeds
from membound.kernels.onnx_file.graph import Node, OnnxFile
from membound.kernels.onnx_file.operators import NumbersNeeded
from membound.kernels.onnx_file.read import read
from membound.kernels.onnx_file.walk import check_operators, walk


def open_decoder(path: Path) -> OnnxDecoder:
    """The decoder of a file. Raises ModelError that names the file and what is wrong or not supported."""
    file = read(path)
    check_operators(file)
    decoder = decoder_of(file)
    if not any(_unknown(cache) for cache in decoder.caches):
        return decoder
    try:
        feeds, known = shape_feeds(decoder, 1, 1), frozenset(decoder.inputs)
        found = walk(file, feeds, numbers=False, known=known, widths=True).outputs
    except NumbersNeeded as error:
        raise ModelError(
            f"{path} does not say how wide its caches are, and {error} hides it: export fixed sizes"
        ) from None
    sizes = {name: value.shape for name, value in found.items()}
    return replace(decoder, caches=tuple(_sized(file, cache, sizes) for cache in decoder.caches))


def _unknown(cache: Cache) -> list[int]:
    """Axes besides those of sequences and tokens whose size only has a name."""
    dims = cache.declared.dims
    return [axis for axis in range(1, len(dims)) if axis != cache.axis and isinstance(dims[axis], str)]


def _sized(file: OnnxFile, cache: Cache, sizes: dict[str, tuple[int, ...]]) -> Cache:
    """The cache with the sizes of what its operator gives back. Raises ModelError."""
    unknown = _unknown(cache)
    if not unknown:
        return cache
    for node in file.graph.nodes:
        present = _made_of(node, cache.name)
        if present in sizes:
            dims = list(cache.declared.dims)
            for axis in unknown:
                dims[axis] = sizes[present][axis]
            return replace(cache, declared=replace(cache.declared, dims=tuple(dims)))
    raise ModelError(
        f"{file.path} does not say how wide {cache.name!r:.60} is: export it with fixed sizes of heads"
    )


def _made_of(node: Node, cache: str) -> str:
    """The cache that an operator gives back, longer by the new rows; '' where it does not read this one."""
    if node.op == GROUP_QUERY and cache in node.inputs[3:5]:
        return (*node.outputs, "", "", "")[1 + node.inputs[3:5].index(cache)]
    return node.outputs[0] if node.op == "Concat" and node.inputs[0] == cache else ""
