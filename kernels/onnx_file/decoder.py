"""What the inputs and outputs of an exported decoder mean, and their shapes in a step.

>>> from pathlib import Path
>>> from membound.kernels.onnx_file.read import read
>>> decoder = decoder_of(read(Path("model.onnx")))
>>> decoder.shapes(batch=1, context=100)["attention_mask"]
(1, 101)

The names are those of optimum, of onnxruntime-genai's builder and of Transformers under torch.onnx. A file without a cache among
its inputs is no decoder; an input that no rule knows is refused by name. Raises ModelError.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from math import prod
from typing import NoReturn

from membound.kernels.model import ModelError
from membound.kernels.onnx_file.graph import Declared, Graph, Node, OnnxFile, graphs_of
from membound.kernels.onnx_file.operators import MOST_ELEMENTS

IDS, EMBEDDINGS, MASK, POSITIONS = "input_ids", "inputs_embeds", "attention_mask", "position_ids"
CACHE_POSITION, BRANCH, LENGTHS, TOTAL = "cache_position", "use_cache_branch", "past_seq_len", "total_seq_len"
KEPT = ("num_logits_to_keep", "logits_to_keep")
ROLES = (IDS, EMBEDDINGS, MASK, POSITIONS, CACHE_POSITION, BRANCH, LENGTHS, TOTAL, *KEPT)
"""Names of inputs that are known besides those of caches."""
LOGITS = "logits"
CACHE_FORMATS = {"float": "f32", "float16": "f16", "bfloat16": "bf16"}
_CACHE = re.compile(r"(?:past|cache)")
_PART = re.compile(r"(?:^|[._])(k|key|v|value)s?(?=$|[._])")
_NUMBER = re.compile(r"\d+")
_PAIR = re.compile(r"past_key_values[._](\d+)[._]([01])")
"""A layer's keys (0) and values (1), as torch.onnx.export names what it was given as pairs."""
_PRESENT = re.compile(r"present|past|cache|new")
SCATTER, GROUP_QUERY = "TensorScatter", "GroupQueryAttention"

MOST_PLACES = 1 << 24
"""Tokens of a mask: it is made whole."""


@dataclass(frozen=True, slots=True)
class Cache:
    """One of the caches: `axis` is that of tokens, `capacity` its places where they are fixed, 0 where it grows.

    `window` is the number of tokens of a window-sized cache, which the operator keeps full; 0 for others. `present` is the output
    that may lie in the same memory, '' where the operators copy.
    """

    declared: Declared
    layer: int
    part: str
    axis: int
    capacity: int = 0
    window: int = 0
    present: str = ""

    @property
    def name(self) -> str:
        """The input."""
        return self.declared.name

    @property
    def format(self) -> str:
        """As works name it: f32, f16, bf16."""
        return CACHE_FORMATS[self.declared.kind.name]

    def shape(self, batch: int, context: int) -> tuple[int, ...]:
        """Of the input: with `context` tokens, or as many places as are fixed."""
        places = self.capacity or self.window or context
        dims = [dim if isinstance(dim, int) else batch for dim in self.declared.dims]
        dims[self.axis] = places
        return tuple(dims)

    def held(self, context: int) -> int:
        """Tokens that it holds before the step."""
        return min(context, self.window) if self.window else context


@dataclass(frozen=True, slots=True)
class OnnxDecoder:
    """A file as a decoder: its inputs by role, its caches, and the output that is checked."""

    file: OnnxFile
    inputs: dict[str, Declared]
    caches: tuple[Cache, ...]
    logits: str
    vocab: int

    @property
    def layers(self) -> int:
        """Layers that have a cache."""
        return len({cache.layer for cache in self.caches})

    def shapes(self, batch: int, context: int) -> dict[str, tuple[int, ...]]:
        """Of every input but caches. Raises ModelError where the file fixes another."""
        found = {}
        for name, declared in self.inputs.items():
            found[name] = self._fitted(declared, _wanted(declared, batch, context), batch, context)
        for cache in self.caches:
            if cache.capacity and cache.capacity < context + 1:
                self._refuse(
                    f"has room for {cache.capacity} tokens in {cache.name!r:.60}: context={context} is too long"
                )
            shape = self._fitted(cache.declared, cache.shape(batch, context), batch, context)
            if prod(shape) > MOST_ELEMENTS:
                self._refuse(
                    f"has a cache {cache.name!r:.60} of {_text(shape)} numbers, more than any step has"
                )
        return found

    def _fitted(
        self, declared: Declared, wanted: tuple[int, ...], batch: int, context: int
    ) -> tuple[int, ...]:
        fixed = declared.dims
        longer = declared.name == MASK and len(fixed) == len(wanted) and isinstance(fixed[-1], int)
        if longer and isinstance(fixed[-1], int) and fixed[-1] > wanted[-1]:
            wanted = (*wanted[:-1], fixed[-1])
            if wanted[-1] > MOST_PLACES:
                self._refuse(
                    f"has a mask of {wanted[-1]} tokens, more than the {MOST_PLACES} that are supported"
                )
        fits = len(fixed) == len(wanted)
        if not fits or any(isinstance(f, int) and f != w for f, w in zip(fixed, wanted, strict=True)):
            self._refuse(
                f"declares {declared.name!r:.60} as {_text(fixed)}, and a step of batch={batch}, context={context} needs "
                f"{_text(wanted)}: export it with dynamic axes, or ask for the sizes that it has"
            )
        return wanted

    def _refuse(self, told: str) -> NoReturn:
        raise ModelError(f"{self.file.path} {told}")


def _text(dims: Iterable[int | str]) -> str:
    return f"[{', '.join(str(dim) for dim in dims)}]"


def _wanted(declared: Declared, batch: int, context: int) -> tuple[int, ...]:
    """The shape of an input that is no cache, in a step of one token a sequence."""
    rank, name = len(declared.dims), role_of(declared.name)
    if name == MASK:
        return (batch, 1, 1, context + 1) if rank == 4 else (batch, context + 1)
    if name == EMBEDDINGS:
        width = declared.dims[-1]
        return (batch, 1, width if isinstance(width, int) else 0)
    if name == POSITIONS and rank == 3:
        return (3, batch, 1)
    if name in (CACHE_POSITION, BRANCH):
        return (1,)
    if name == LENGTHS:
        return (batch, 1) if rank == 2 else (batch,)
    if name in (TOTAL, *KEPT):
        return (1,) * rank
    return (batch, 1)


def role_of(name: str) -> str:
    """What an input is, '' where no rule knows it: its own name, or that of the same input in other exports."""
    other = {"past_sequence_length": LENGTHS, "total_sequence_length": TOTAL, "inputs_ids": IDS}
    name = other.get(name, name)
    return name if name in ROLES else ""


def decoder_of(file: OnnxFile) -> OnnxDecoder:
    """Raises ModelError: no caches, an unknown input, no logits, a vocabulary that cannot be told."""
    caches = tuple(_cache(file, one) for one in file.graph.inputs if _is_cache(one))
    if not caches:
        raise ModelError(
            f"{file.path} is no decoder with a cache: none of its inputs is a cache such as past_key_values.0.key; "
            "export it with its past (optimum: --task text-generation-with-past)"
        )
    inputs = {one.name: one for one in file.graph.inputs if not _is_cache(one)}
    for name, one in inputs.items():
        role = role_of(name)
        if not role:
            raise ModelError(
                f"{file.path} has the input {name!r:.60}, which no rule knows; known: {', '.join(ROLES)}, and caches"
            )
        if one.kind.is_float != (role == EMBEDDINGS) and not (role == MASK and len(one.dims) == 4):
            raise ModelError(f"{file.path} has {name!r:.60} of type {one.kind.name}, which it cannot be")
    if not {IDS, EMBEDDINGS} & {role_of(name) for name in inputs}:
        raise ModelError(f"{file.path} has neither {IDS} nor {EMBEDDINGS} among its inputs")
    logits = _logits(file, caches)
    return OnnxDecoder(file, inputs, caches, logits.name, _vocabulary(file, inputs, logits))


def _is_cache(one: Declared) -> bool:
    return not role_of(one.name) and bool(
        _CACHE.search(one.name) and _PART.search(one.name) and _NUMBER.search(one.name)
    )


def _cache(file: OnnxFile, one: Declared) -> Cache:
    """An input that holds keys or values. Raises ModelError."""
    if one.kind.name not in CACHE_FORMATS:
        raise ModelError(
            f"{file.path} keeps {one.name!r:.60} in {one.kind.name}, which is not supported; supported: "
            f"{', '.join(CACHE_FORMATS)}"
        )
    if not 3 <= len(one.dims) <= 4:
        raise ModelError(f"{file.path} declares {one.name!r:.60} as {_text(one.dims)}, which is no cache")
    free = [axis for axis, dim in enumerate(one.dims) if axis and isinstance(dim, str)]
    named = [axis for axis in free if re.search("past|seq|len|ctx|context|total", str(one.dims[axis]))]
    free = named if len(free) > 1 and named else free
    if len(free) > 1:
        raise ModelError(
            f"{file.path} declares {one.name!r:.60} as {_text(one.dims)}: which axis is that of tokens?"
        )
    axis = free[0] if free else len(one.dims) - 2
    fixed = one.dims[axis]
    part = "key" if _PART.findall(one.name)[-1].startswith("k") else "value"
    layer = int(_NUMBER.findall(one.name)[-1])
    if pair := _PAIR.fullmatch(one.name):
        layer, part = int(pair[1]), "value" if int(pair[2]) else "key"
    window, present = _kept(file.graph, one.name)
    if not window and free and "sliding" in str(fixed):
        raise ModelError(
            f"{file.path} has the window-sized cache {one.name!r:.60}, and no operator says how wide it is"
        )
    capacity = fixed if isinstance(fixed, int) and not window else 0
    return Cache(one, layer, part, axis, capacity, window, present)


def _kept(graph: Graph, name: str) -> tuple[int, str]:
    """The window of a window-sized cache, and the output that may share its memory: what its only reader makes of it."""
    readers = [node for one in graphs_of(graph) for node in one.nodes if name in node.inputs]
    if len(readers) != 1 or readers[0] not in graph.nodes:
        return _window(readers, name), ""
    node, outputs = readers[0], {one.name for one in graph.outputs}
    window = _window(readers, name)
    if window:
        return window, ""  # it evicts: a repeated launch would be another step
    present = ""
    if node.op == GROUP_QUERY and name in node.inputs[3:5]:
        place = 1 + node.inputs[3:5].index(name)
        present = node.outputs[place] if place < len(node.outputs) else ""
    elif node.op == SCATTER and node.inputs[0] == name:
        present = node.outputs[0]
    return 0, present if present in outputs else ""


def _window(readers: Iterable[Node], name: str) -> int:
    for node in readers:
        if (
            node.op == GROUP_QUERY
            and node.attributes.get("sliding_window_cache")
            and name in node.inputs[3:5]
        ):
            width = node.attributes.get("local_window_size", 0)
            return width if isinstance(width, int) and width > 0 else 0
    return 0


def _logits(file: OnnxFile, caches: Iterable[Cache]) -> Declared:
    """The output that is checked: of that name, or the only one that no name or no shape makes a cache. Raises ModelError."""
    outputs = file.graph.outputs
    cached = {len(cache.declared.dims) for cache in caches}
    named = (
        [one for one in outputs if one.name == LOGITS],
        [one for one in outputs if not _PRESENT.search(one.name) and one.kind.is_float],
        [one for one in outputs if len(one.dims) not in cached and one.kind.is_float],
    )
    for found in named:
        if len(found) == 1 and found[0].kind.is_float:
            return found[0]
    raise ModelError(
        f"{file.path} has no output {LOGITS!r}, and not one other output alone that is no cache: "
        f"{', '.join(one.name for one in outputs):.100}"
    )


def _vocabulary(file: OnnxFile, inputs: dict[str, Declared], logits: Declared) -> int:
    """Tokens that may be asked for: the rows of the tables that ids choose from, or the width of the logits."""
    ids = {name for name in inputs if role_of(name) == IDS}
    rows = [
        file.graph.stored[node.inputs[0]].dims[0]
        for node in file.graph.nodes
        if node.op.startswith("Gather")
        and len(node.inputs) > 1
        and node.inputs[1] in ids
        and node.inputs[0] in file.graph.stored
    ]
    last = logits.dims[-1] if logits.dims else 0
    found = min(rows) if rows else last if isinstance(last, int) else 0
    if not found and ids:
        raise ModelError(
            f"{file.path} does not say how many tokens there are: its logits have no fixed width"
        )
    return found
