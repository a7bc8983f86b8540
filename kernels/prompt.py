"""A step behind a prompt: caches, keys of indexes and states that the prompt leaves, and what the model says to tokens chosen since.

>>> from membound.kernels.seeded import make_inputs
>>> from membound.kernels.work import parse
>>> inputs = make_inputs(parse("step:model=tiny,context=16,cache=prompt"), seed=1)
>>> held_caches(inputs)[0].k.shape, scores(inputs, np.array([[7, 3]])).shape
((1, 2, 16, 32), (1, 2, 1000))

An engine can only hold what it computed itself: the keys and values of tokens, and states. So that every backend
steps over the same ones, they are computed here in float64 from the same weights, keys and values rounded as the work's
format asks, states to float32. An engine goes on where a step ends; `scores` follows it, whatever it chose.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np

from membound.kernels.inputs import Inputs, ModelInputs, OnnxInputs
from membound.kernels.reference import (
    F64,
    Hold,
    logits,
    prefill,
    run_tokens,
)
from membound.kernels.stored_cache import append
from membound.kernels.weights.formats import IndexedCache, KVCache
from membound.kernels.weights.layers import I64
from membound.kernels.weights.states import State
from membound.kernels.work import Prefill, Step

Held = KVCache | IndexedCache | State
"""What a layer has of the tokens before."""

ARRAYS = ("k", "v", "k_scales", "v_scales")
STATES = ("tail", "matrices")
KEYS = "keys."
"""Before the names of an index's arrays."""


def held_caches(inputs: ModelInputs) -> list[Held]:
    """The cache or the state of each layer after the first `context` of `inputs.tokens`; computed once for each key.

    Kept in `inputs`, and in `inputs.folder` if there is one.
    """
    if not inputs.held:
        path = inputs.folder / f"prompt-{key_of(inputs)}.npz" if inputs.folder else None
        found = _read(path, inputs) if path else None
        inputs.held.extend(found or _compute(inputs))
        if path and not found:
            _write(path, inputs)
    return inputs.held


def key_of(inputs: Inputs, slot: int = 0) -> str:
    """A hash of work, seed and input set, and of its weights' sizes and times where a folder or a file is the model."""
    digest = hashlib.sha256(f"{inputs.work.spec} {inputs.seed} {slot}".encode())
    for path in _files_of(inputs):
        if not path.is_file():
            continue  # a link to nothing is no part of the model
        stat = path.stat()
        digest.update(f"{path.resolve()} {stat.st_size} {stat.st_mtime_ns}".encode())
    return digest.hexdigest()[:32]


def _files_of(inputs: Inputs) -> list[Path]:
    """The files whose numbers the inputs are, if they are not drawn."""
    if isinstance(inputs, OnnxInputs):
        return [Path(inputs.work.file), *inputs.work.bill.data_files]
    folder = inputs.model.folder if isinstance(inputs, ModelInputs) else ""
    if not folder:
        return []
    return [Path(folder)] if os.path.isfile(folder) else sorted(Path(folder).glob("*.safetensors*"))


def scores(inputs: ModelInputs, chosen: I64) -> F64:
    """Logits [batch, n, vocab] from which each of `chosen` [batch, n] was to be chosen.

    The first are the output of the work itself; the next follow when the first chosen token is fed, and
    so on. Each choice is taken as it is, so one that another sum would have made does no harm later.
    Raises ValueError for a prompt with n > 1: it ends with one choice. A step has one query here, as engines run it.
    """
    work, (batch, count) = inputs.work, chosen.shape
    if inputs.tokens is None:
        raise AssertionError("no inputs.tokens")
    if isinstance(work, Prefill):
        if count != 1:
            raise ValueError(f"a prompt ends with one token a sequence, not {count}")
        return prefill(inputs)[:, None]
    fed = np.concatenate([inputs.tokens[:, -1:], chosen[:, :-1]], axis=1)
    held = held_caches(inputs)
    states = {index: one for index, one in enumerate(held) if isinstance(one, State)}
    keys = {index: one.keys for index, one in enumerate(held) if isinstance(one, IndexedCache)}
    y = _run(
        inputs,
        fed,
        work.context,
        lambda index, new: append(inputs.cache(index), new),
        states,
        hold_keys=lambda index, new: append(keys[index], new),
    )
    return logits(inputs, y).reshape(batch, count, -1)


def _compute(inputs: ModelInputs) -> list[Held]:
    """Run the prompt, all but the step's own tokens, and keep what each layer stores."""
    if inputs.tokens is None or not isinstance(inputs.work, Step):
        raise AssertionError("no prompt before a step")
    caches: dict[int, KVCache] = {}
    keys: dict[int, KVCache] = {}
    states: dict[int, State] = {}

    def kept(into: dict[int, KVCache]) -> Hold:
        def keep(index: int, new: KVCache) -> KVCache:
            into[index] = new
            return new

        return keep

    tokens = inputs.tokens[:, : inputs.work.context]
    _run(inputs, tokens, 0, kept(caches), left=states, hold_keys=kept(keys))
    held: dict[int, Held] = {
        index: IndexedCache(cache, keys[index]) if index in keys else cache for index, cache in caches.items()
    }
    for index, one in states.items():
        held[index] = State(one.tail.astype(np.float32), one.matrices.astype(np.float32))
    return [held[index] for index in range(inputs.model.layers)]


def _run(
    inputs: ModelInputs,
    tokens: I64,
    first: int,
    hold: Hold,
    before: Mapping[int, State] | None = None,
    left: dict[int, State] | None = None,
    *,
    hold_keys: Hold,
) -> F64:
    """Tokens [batch, n] at positions first..first+n-1 through all layers: hidden states [batch·n, hidden]."""
    x = inputs.embedded(tokens).astype(np.float64)
    positions = np.arange(first, first + tokens.shape[1])
    return run_tokens(inputs, x, positions, hold, before, left, hold_keys=hold_keys)


def _read(path: Path, inputs: ModelInputs) -> list[Held] | None:
    """What another worker wrote; None if there is nothing, or a power failure tore the file."""
    if not isinstance(inputs.work, Step):
        raise AssertionError(f"{type(inputs.work).__name__} is no Step")
    with suppress(FileNotFoundError, EOFError, BadZipFile, KeyError, ValueError), path.open("rb") as file:
        arrays = dict(np.load(file))
        return [_of_arrays(arrays, index, inputs.work.kv) for index in range(inputs.model.layers)]
    return None


def _arrays_of(held: Held) -> list[tuple[str, Any]]:
    """Arrays by name, some of which may not be there."""
    if isinstance(held, IndexedCache):
        keys = [(f"{KEYS}{name}", array) for name, array in _arrays_of(held.keys)]
        return _arrays_of(held.rows) + keys
    return [(name, getattr(held, name)) for name in (STATES if isinstance(held, State) else ARRAYS)]


def _of_arrays(arrays: dict[str, Any], index: int, kv: str) -> Held:
    """What layer `index` holds."""
    if f"{index}.{STATES[0]}" in arrays:
        return State(*(arrays[f"{index}.{name}"] for name in STATES))
    rows = _cache_of(arrays, f"{index}.", kv)
    of_index = f"{index}.{KEYS}"
    return IndexedCache(rows, _cache_of(arrays, of_index, kv)) if f"{of_index}k" in arrays else rows


def _cache_of(arrays: dict[str, Any], of: str, kv: str) -> KVCache:
    k, v, *scales = (arrays.get(f"{of}{name}") for name in ARRAYS)
    if k is None or v is None:
        raise KeyError(of)
    return KVCache(kv, k, v, *scales)


def _write(path: Path, inputs: ModelInputs) -> None:
    """All or nothing, for workers that read at the same time."""
    arrays = {
        f"{index}.{name}": array
        for index, one in enumerate(inputs.held)
        for name, array in _arrays_of(one)
        if array is not None
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    with scratch.open("wb") as file:
        np.savez(file, **arrays)
    scratch.rename(path)
