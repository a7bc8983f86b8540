"""`numba:cpu`: membound's kernels on the processor, compiled by Numba.

Matrices are packed once, in `prepare`; a launch is one call of a compiled function, a whole decode step
included. Kernels: membound.kernels.cpu.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from importlib.metadata import version
from itertools import pairwise
from typing import Any

import numba
import numpy as np
import numpy.typing as npt

from membound.backends.api import NO_FILES, Backend, Device, cpu_name
from membound.errors import BackendUnavailable, Unsupported
from membound.kernels import features
from membound.kernels.cpu.compile import ThreadingError, set_threads
from membound.kernels.cpu.matmul.grouping import CACHES
from membound.kernels.cpu.simd.features import INSTRUCTION_SET, LANES
from membound.kernels.features import missing
from membound.kernels.inputs import AttentionInputs, ExpertInputs, Inputs, LinearInputs, ModelInputs
from membound.kernels.layer_tensors import matrices_of
from membound.kernels.mixers import GatedDelta
from membound.kernels.operations import LATENT_DIM, LATENT_HEAD_DIM, LATENT_VALUE_DIM
from membound.kernels.routing import OWN_ROUTES, experts_read
from membound.kernels.weights.formats import KVCache, kernel_format
from membound.kernels.weights.stored.matrices import Stored
from membound.kernels.work import (
    DecodeAttention,
    LatentAttention,
    Linear,
    OnnxStep,
    Prefill,
    RoutedExperts,
    Step,
    Work,
)

LACKING = {features.PARALLEL, features.GELU}
FEATURES = features.EVERY - LACKING | {features.INDEXES} | features.GEMMA_4
"""What steps and prompts compute beyond Llama and Qwen."""
LAYERS = ("default", "safe", "threadsafe", "omp", "tbb")
"""What Numba may be asked for; its workqueue, on which it falls back too, takes 50 times as long to start a parallel region."""
MOST_ROWS = 64
"""The most rows of x that the packed matmul is made for; with more, a GEMM is compute-bound."""


class NumbaCpu(Backend):
    """Linear and experts in every format; attention, latent attention, steps and prompts over caches of `CACHES`."""

    _launch: Callable[[int], None]
    _output: Callable[[], npt.NDArray[np.float32]]
    _threads = 1
    _stored: int | None = None
    _extra_fmas: int | None = None
    _choice: Callable[[], list[npt.NDArray[np.int64]]] | None = None
    """The experts of each row by layers."""
    _own_routes = False

    def open(self, device: str, threads: int) -> Device:
        """Start Numba's thread pool."""
        if device != "cpu":
            raise BackendUnavailable(f"numba has no device {device!r} here; it has: cpu")
        asked = str(numba.config.THREADING_LAYER)
        if asked.lower() not in LAYERS:
            raise BackendUnavailable(
                f"NUMBA_THREADING_LAYER={asked} keeps Numba from the threads of OpenMP and of TBB",
                "unset NUMBA_THREADING_LAYER",
            )
        try:
            set_threads(threads)
        except ThreadingError as error:
            raise BackendUnavailable(str(error), error.remedy) from None
        self._threads = threads
        versions = {name: version(name) for name in ("numba", "llvmlite", "numpy")}
        versions |= {"instruction_set": INSTRUCTION_SET, "threading_layer": numba.threading_layer()}
        return Device("numba:cpu", cpu_name(), threads, versions)

    def supports(self, work: Work) -> str | None:
        """Supports everything but large batches, and caches that only GPUs handle."""
        if isinstance(work, OnnxStep):
            return NO_FILES
        if not isinstance(work, Linear | RoutedExperts) and work.kv not in CACHES:
            return f"there is no attention kernel over an {work.kv} cache for CPUs"
        if isinstance(work, DecodeAttention | LatentAttention) and work.page:
            return "there is no attention kernel over a paged cache for CPUs"
        if isinstance(work, Step | Prefill) and (reason := _lacks(work)):
            return reason
        if isinstance(work, Step | Prefill) and work.stored and (reason := _cut_panel(work, work.stored)):
            return reason
        if isinstance(work, Prefill) and not _like_llama(work) and work.batch > MOST_ROWS:
            return f"prompts of such models take up to {MOST_ROWS} sequences, not {work.batch}"
        if isinstance(work, Prefill) and work.distinct and work.shape.folder:
            return "prompts with experts have planned routes; a folder's own router chooses in steps"
        if isinstance(work, Prefill):
            return None
        if isinstance(work, DecodeAttention | LatentAttention):
            return None
        rows = work.m if isinstance(work, Linear) else work.rows if isinstance(work, Step) else work.batch
        if rows > MOST_ROWS:
            return f"the kernels take up to {MOST_ROWS} rows, not {rows}"
        return None

    def add_arithmetic(self, work: Work, fmas: int) -> None:
        """One row of x, or decode attention over a float cache: see membound.kernels.cpu.instruments.free_compute."""
        from membound.kernels.cpu.instruments.free_compute import refusal

        reason = refusal(work)
        if reason is not None:
            raise Unsupported(reason)
        self._extra_fmas = fmas

    def prepare(self, work: Work, inputs: Inputs) -> None:
        """Pack every input set; the first launch of a kind compiles."""
        self.close()
        extra_fmas, self._extra_fmas = self._extra_fmas, None
        if isinstance(inputs, LinearInputs):
            self._prepare_linear(inputs, extra_fmas)
        elif isinstance(inputs, AttentionInputs) and extra_fmas is not None:
            self._prepare_loaded_attention(inputs, extra_fmas)
        elif isinstance(inputs, AttentionInputs) and isinstance(work, LatentAttention):
            self._prepare_latent(inputs, work)
        elif isinstance(inputs, AttentionInputs) and isinstance(work, DecodeAttention) and work.queries > 1:
            self._prepare_several(inputs, work)
        elif isinstance(inputs, AttentionInputs):
            self._prepare_attention(inputs)
        elif isinstance(inputs, ExpertInputs):
            self._prepare_experts(inputs)
        elif isinstance(inputs, ModelInputs):
            self._prepare_model(inputs)
        else:
            raise Unsupported(self.supports(work) or NO_FILES)

    def launch(self, slot: int) -> None:
        """Run; returns when done."""
        self._launch(slot)

    def sync(self) -> None:
        """Nothing is left to wait for."""

    def output(self) -> npt.NDArray[np.float32]:
        """The last launch's result."""
        return self._output()

    def stored_bytes(self) -> int | None:
        """The packed bytes, if padding adds more than 1 % to what the work asks for."""
        return self._stored

    def settings(self) -> dict[str, Any]:
        """Of experts, how many different ones the last launch took, and whether a folder's own router chose them."""
        if self._choice is None:
            return {}
        return {"experts_read": experts_read(self._choice())} | (OWN_ROUTES if self._own_routes else {})

    def close(self) -> None:
        """Drop the packed arrays."""
        self._launch, self._output = _nothing_prepared, _no_output
        self._stored, self._choice, self._own_routes = None, None, False

    def _prepare_linear(self, inputs: LinearInputs, extra_fmas: int | None = None) -> None:
        from membound.kernels.cpu.matmul.linear import linear_kernel
        from membound.kernels.cpu.matmul.pack import aligned_bytes, pack
        from membound.kernels.cpu.matmul.recipe import choose

        work, threads = inputs.work, self._threads
        recipe = choose(work.weight, work.act, work.m)
        size = recipe.matrix_bytes(work.n, work.k)
        arenas = []
        for slot in range(inputs.slots):
            arenas.append(aligned_bytes(size))
            pack(inputs.weight(slot), recipe, arenas[-1])
        self._stored = _if_larger(size, work.traffic.weights_bytes + work.traffic.scales_bytes)
        n, k, x = work.n, work.k, inputs.x.reshape(-1)
        if extra_fmas is None:
            run = linear_kernel(recipe.format, work.act, work.m)
            scratch = aligned_bytes(recipe.scratch_bytes(k))
        else:
            from membound.kernels.cpu.instruments.free_compute import (
                loaded_linear_kernel,
                scratch_with_constants,
            )

            run, scratch = loaded_linear_kernel(work.weight), scratch_with_constants(k, extra_fmas)
        y = np.zeros(recipe.rows * recipe.padded_n(n), np.float32)
        self._launch = lambda slot: run(arenas[slot], 0, n, k, x, scratch, y, threads)
        self._output = lambda: y.reshape(recipe.rows, -1)[: work.m, :n].copy()

    def _prepare_attention(self, inputs: AttentionInputs) -> None:
        from membound.kernels.cpu.attention.decode import attention_kernel, flat_cache
        from membound.kernels.cpu.matmul.grouping import grouping

        work, threads = inputs.work, self._threads
        if not isinstance(work, DecodeAttention):
            raise AssertionError(f"{type(work).__name__} is no DecodeAttention")
        slots = [flat_cache(inputs.cache(slot)) for slot in range(inputs.slots)]
        group, dim = work.q_heads // work.kv_heads, work.head_dim
        shape = grouping(work.kv, group, dim)
        run = attention_kernel(work.kv, shape.heads, shape.method)
        q = np.ascontiguousarray(inputs.q.reshape(-1))
        out = np.zeros_like(q)
        batch, kv_heads, context = work.batch, work.kv_heads, work.context
        self._launch = lambda slot: run(
            q, *slots[slot], out, batch, kv_heads, group, dim, context, context, threads
        )
        self._output = lambda: out.reshape(inputs.q.shape).copy()

    def _prepare_latent(self, inputs: AttentionInputs, work: LatentAttention) -> None:
        from membound.kernels.cpu.attention.decode import flat_cache
        from membound.kernels.cpu.attention.rows import Rows, rows_grouping, rows_kernel

        threads, context, scale = self._threads, work.context, LATENT_HEAD_DIM**-0.5
        shape = Rows(context, 1, work.batch, 1, work.q_heads, LATENT_DIM, LATENT_VALUE_DIM, scale)
        slots = []
        for slot in range(inputs.slots):
            cache = inputs.cache(slot)
            slots.append(flat_cache(replace(cache, v=cache.k)))  # one array: the values are its first columns
        g = rows_grouping(work.kv, shape.dim, shape.value_dim)
        run, q = rows_kernel(g.kv, g.method), np.ascontiguousarray(inputs.q.reshape(-1))
        out = np.zeros((work.batch, work.q_heads, shape.value_dim), np.float32)
        y = out.reshape(-1)
        self._launch = lambda slot: run(q, *slots[slot], shape, context, y, threads)
        self._output = out.copy

    def _prepare_several(self, inputs: AttentionInputs, work: DecodeAttention) -> None:
        from membound.kernels.cpu.attention.decode import flat_cache
        from membound.kernels.cpu.attention.rows import Rows, rows_grouping
        from membound.kernels.cpu.attention.several import several_kernel

        threads, tokens, dim = self._threads, work.context + work.queries, work.head_dim
        group = work.q_heads // work.kv_heads
        shape = Rows(tokens, work.queries, work.batch, work.kv_heads, group, dim, dim, dim**-0.5)
        slots = []
        for slot in range(inputs.slots):
            new = (a.reshape(-1) for a in inputs.new_tokens(slot))
            slots.append((*new, *flat_cache(_with_room(inputs.cache(slot), work.queries))))
        g = rows_grouping(work.kv, dim, dim)
        run, q = several_kernel(g.kv, g.method), np.ascontiguousarray(inputs.q.reshape(-1))
        out = np.zeros_like(q)
        self._launch = lambda slot: run(q, *slots[slot], shape, tokens, out, threads)
        self._output = lambda: out.reshape(inputs.q.shape).copy()

    def _prepare_loaded_attention(self, inputs: AttentionInputs, extra_fmas: int) -> None:
        from membound.kernels.cpu.instruments.free_compute import constants, loaded_attention_kernel
        from membound.kernels.cpu.matmul.grouping import grouping

        work, threads = inputs.work, self._threads
        if not isinstance(work, DecodeAttention):
            raise AssertionError(f"{type(work).__name__} is no DecodeAttention")
        caches = [inputs.cache(slot) for slot in range(inputs.slots)]
        slots = [(c.k.reshape(-1), c.v.reshape(-1)) for c in caches]
        group, dim = work.q_heads // work.kv_heads, work.head_dim
        run = loaded_attention_kernel(work.kv, grouping(work.kv, group, dim).heads)
        numbers = constants(extra_fmas)
        q = np.ascontiguousarray(inputs.q.reshape(-1))
        out = np.zeros_like(q)
        shape = (work.context, work.batch, work.kv_heads, group, dim)
        self._launch = lambda slot: run(q, *slots[slot], numbers, *shape, out, threads)
        self._output = lambda: out.reshape(inputs.q.shape).copy()

    def _prepare_experts(self, inputs: ExpertInputs) -> None:
        from membound.kernels.cpu.experts.packed_experts import PackedExperts

        experts = PackedExperts(inputs, self._threads)
        asked = inputs.work.traffic
        self._stored = _if_larger(experts.launch_bytes, asked.weights_bytes + asked.scales_bytes)
        self._launch, self._output = experts.run, lambda: experts.output
        self._choice = lambda: [experts.choice]

    def _prepare_model(self, inputs: ModelInputs) -> None:
        from membound.kernels.cpu.step.packed_model import PackedModel
        from membound.kernels.cpu.step.packed_prompt import PackedPrompt

        if _has_states(inputs.work):
            self._prepare_hybrid(inputs)
            return
        if _like_gemma_4(inputs.work):
            self._prepare_wide(inputs)
            return
        if not _like_llama(inputs.work):
            self._prepare_routed(inputs)
            return
        model = (PackedModel if isinstance(inputs.work, Step) else PackedPrompt)(inputs, self._threads)
        asked = inputs.work.traffic
        self._stored = _if_larger(model.matrix_bytes, asked.weights_bytes + asked.scales_bytes)
        self._launch = lambda slot: model.run()
        self._output = lambda: model.logits

    def _prepare_hybrid(self, inputs: ModelInputs) -> None:
        from membound.kernels.cpu.step.packed_hybrid import PackedHybrid
        from membound.kernels.cpu.step.packed_hybrid_prompt import PackedHybridPrompt

        packed = PackedHybrid if isinstance(inputs.work, Step) else PackedHybridPrompt
        model, asked = packed(inputs, self._threads), inputs.work.traffic
        self._stored = _if_larger(model.matrix_bytes, asked.weights_bytes + asked.scales_bytes)
        self._launch = lambda slot: model.run()
        self._output = lambda: model.logits
        if inputs.model.decoder.experts:
            self._choice, self._own_routes = lambda: list(model.choice), inputs.plan is None

    def _prepare_wide(self, inputs: ModelInputs) -> None:
        from membound.kernels.cpu.step.packed_wide import PackedWide

        model, asked = PackedWide(inputs, self._threads), inputs.work.traffic
        self._stored = _if_larger(model.matrix_bytes, asked.weights_bytes + asked.scales_bytes)
        self._launch = lambda slot: model.run()
        self._output = lambda: model.logits
        if inputs.model.decoder.experts:
            self._choice, self._own_routes = lambda: list(model.choice), inputs.plan is None

    def _prepare_routed(self, inputs: ModelInputs) -> None:
        from membound.kernels.cpu.step.packed_routed import PackedRouted
        from membound.kernels.cpu.step.packed_routed_prompt import PackedRoutedPrompt

        packed = PackedRouted if isinstance(inputs.work, Step) else PackedRoutedPrompt
        model, asked = packed(inputs, self._threads), inputs.work.traffic
        self._stored = _if_larger(model.matrix_bytes, asked.weights_bytes + asked.scales_bytes)
        self._launch = lambda slot: model.run()
        self._output = lambda: model.logits
        if inputs.model.decoder.experts:
            self._choice, self._own_routes = lambda: list(model.choice), inputs.plan is None


def _lacks(work: Step | Prefill) -> str | None:
    """What of a model's features a step or a prompt does not compute, or None: beside states in prompts no bounds, of Gemma 4's one query."""
    without = features.BOUNDS if isinstance(work, Prefill) and _has_states(work) else frozenset()
    without |= features.GEMMA_4 if isinstance(work, Prefill) or work.queries > 1 else frozenset()
    return missing(work, _features_of(work) - without)


def _like_llama(work: Step | Prefill) -> bool:
    """Whether its kernel is one for layers of the same shape: dense steps, and prompts of Llama and Qwen."""
    return work.shape.dense and (isinstance(work, Step) or missing(work) is None)


def _like_gemma_4(work: Step | Prefill) -> bool:
    """Whether it has anything of what only Gemma 4's layers have."""
    return not features.GEMMA_4.isdisjoint(features.features(work.shape.decoder, features.tokens_of(work)))


def _cut_panel(work: Step | Prefill, stored: Stored) -> str | None:
    """Where a matrix ends within a panel before one of another format, which is packed behind it; None: nowhere."""
    if stored.of_one_format() is None:
        return None
    from membound.kernels.cpu.step.packed_routed import slots_of

    for layer, held in zip(work.shape.decoder.layers, stored.layers, strict=True):
        shapes = matrices_of(layer, work.shape.hidden)
        for names in slots_of(layer):
            rows = 0
            for name, behind in pairwise(names):
                rows += shapes[name][0]
                if rows % LANES and kernel_format(held[name].format) != kernel_format(held[behind].format):
                    formats = f"{held[name].format} before others in {held[behind].format}"
                    return f"{rows} rows of {formats} fill no whole panels of {LANES}"
    return None


def _has_states(work: Step | Prefill) -> bool:
    return any(work.shape.decoder.state_bytes)


def _features_of(work: Step | Prefill) -> frozenset[str] | set[str]:
    """What is computed of a model: attention beside a state is gated DeltaNet's with its gate, or Mamba-2's without one."""
    if not _has_states(work):
        return FEATURES
    mixers = {type(layer.mixer) for layer in work.shape.decoder.kinds}
    own = {features.DELTAS, features.GATED} if GatedDelta in mixers else {features.MAMBAS}
    return FEATURES - {features.LATENT} - features.GEMMA_4 | own | {features.NO_MLP, features.UNGATED}


def _with_room(cache: KVCache, tokens: int) -> KVCache:
    """The cache with zeros behind its own tokens, where `tokens` more have room."""

    def widened(values: Any) -> Any:
        if values is None:
            return None
        return np.pad(values, [(0, tokens if axis == 2 else 0) for axis in range(values.ndim)])

    arrays = (cache.k, cache.v, cache.k_scales, cache.v_scales)
    return KVCache(cache.format, *(widened(a) for a in arrays))


def _if_larger(stored: int, asked: int) -> int | None:
    return stored if stored > 1.01 * asked else None


def _nothing_prepared(slot: int) -> None:
    raise RuntimeError("launch before prepare")


def _no_output() -> npt.NDArray[np.float32]:
    raise RuntimeError("output before prepare")
