"""Imports vLLM and starts an engine: offline, in this process, sized for one work.

Nothing is downloaded and nothing is reported: the Hub is offline, usage statistics are off. The prefix cache
is off, so that no prompt is served from an earlier one.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from membound.backends.vllm_engine.installed import BLOCK_TOKENS, DTYPES, device_kind
from membound.errors import Unsupported
from membound.kernels.export import POSITIONS, ExportError, export_model
from membound.kernels.inputs import ModelInputs
from membound.kernels.work import Prefill, Step

GROWTH_BYTES = 256 << 20
FEWEST_STEPS, MOST_STEPS = 256, 4096
"""A sequence may grow by this many tokens, as far as they fit GROWTH_BYTES: far more than a case times, since the
shortest step of an engine takes more than a millisecond."""
PROMPT_TOKENS = 8192
"""The tokens in a step while prompts are run, untimed: long prompts are split, to save memory."""


@dataclass(frozen=True, slots=True)
class Sizes:
    """What an engine needs for a work. `chunk` is the number of tokens of each prompt that one step takes."""

    growth: int
    chunk: int
    positions: int
    cache_bytes: int
    weights_bytes: int


def sizes_of(work: Step | Prefill) -> Sizes:
    """Sizes for a work in the formats that the engine computes in. Raises Unsupported beyond POSITIONS."""
    model, batch = work.shape, work.batch
    value_bytes = 4 if work.weight == "f32" else 2
    token_bytes = model.layers * 2 * model.kv_dim * value_bytes
    prompt = work.tokens if isinstance(work, Prefill) else work.context + 1
    growth, chunk = 1, prompt
    if isinstance(work, Step):
        growth = min(max(GROWTH_BYTES // (token_bytes * batch), FEWEST_STEPS), MOST_STEPS)
        chunk = chunk_of(work.context, max(1, PROMPT_TOKENS // batch))
    positions = prompt + growth
    if positions > POSITIONS:
        raise Unsupported(f"{positions} positions are more than the {POSITIONS} of the exported config.json")
    blocks = batch * -(-positions // BLOCK_TOKENS) + 2  # vLLM reserves one block
    weights_bytes = round(model.decoder.stored_weights) * value_bytes
    return Sizes(growth, chunk, positions, blocks * BLOCK_TOKENS * token_bytes, weights_bytes)


def chunk_of(context: int, most: int) -> int:
    """The largest divisor of `context` up to `most`, so that a step remains with only the last token of each prompt.

    All of `context` if that divisor is tiny: a prime context is run at once.
    """
    chunk = next(size for size in range(min(most, context), 0, -1) if context % size == 0)
    return chunk if chunk >= min(64, context) else context


def start(inputs: ModelInputs, weight: str, sizes: Sizes, eager: bool) -> tuple[Any, dict[str, Any]]:
    """An engine with the model loaded, and the settings that decide its speed.

    Raises MemoryError before anything that does not fit is allocated, and Unsupported with vLLM's reason.
    """
    _check_memory(sizes)
    with tempfile.TemporaryDirectory(prefix="membound-") as folder:
        model = Path(folder) / "model"
        try:
            export_model(inputs, model)
        except ExportError as error:
            raise Unsupported(str(error)) from None
        engine = _engine(model, inputs.work, DTYPES[weight], sizes, eager)
    return engine, _settings(engine, inputs.work.weight)


def _check_memory(sizes: Sizes) -> None:
    needed, available = sizes.weights_bytes + sizes.cache_bytes, psutil.virtual_memory().available
    if device_kind() == "cpu" and needed > available:
        raise MemoryError(
            f"vLLM needs {needed} bytes for weights and cache, {available} are available; "
            "layers=N runs fewer layers"
        )


def _engine(model: Path, work: Step | Prefill, dtype: str, sizes: Sizes, eager: bool) -> Any:
    """The engine; widths of heads and the like that vLLM has no kernel for are Unsupported with its reason."""
    from vllm.engine.arg_utils import EngineArgs
    from vllm.v1.engine.llm_engine import LLMEngine

    arguments = EngineArgs(
        model=str(model),
        skip_tokenizer_init=True,
        dtype=dtype,
        seed=0,
        enforce_eager=eager or device_kind() == "cpu",
        distributed_executor_backend="uni",
        async_scheduling=False,  # a launch returns the tokens of its own step
        enable_prefix_caching=False,
        enable_chunked_prefill=True,
        long_prefill_token_threshold=sizes.chunk,
        max_num_batched_tokens=work.batch * sizes.chunk,
        max_num_seqs=work.batch,
        max_model_len=sizes.positions,
        kv_cache_memory_bytes=sizes.cache_bytes,
        disable_log_stats=True,
    )
    try:
        with _hidden_from_scans():
            return LLMEngine.from_engine_args(arguments)
    except (ValueError, NotImplementedError) as error:
        if "memory" in str(error).lower():
            raise  # it is no limit of the shapes
        text = " ".join(str(error).split())[:300]
        raise Unsupported(f"vLLM refuses the model: {text or type(error).__name__}") from error


@contextmanager
def _hidden_from_scans() -> Iterator[None]:
    """When it starts on a CPU, vLLM reads `__dict__` of every attribute of every module (0.32,
    triton_utils/dispatcher.py), and llvmlite's library answers to any name with something that is not a dict."""
    name = "llvmlite.binding.ffi"
    hidden = sys.modules.pop(name, None)
    try:
        yield
    finally:
        if hidden is not None:
            sys.modules[name] = hidden


def _settings(engine: Any, stored: str) -> dict[str, Any]:
    config = engine.vllm_config
    return {
        "weights_stored": stored,
        "dtype_computed": str(config.model_config.dtype).removeprefix("torch."),
        "cache_dtype": str(config.cache_config.cache_dtype),
        "block_size": config.cache_config.block_size,
        "blocks": config.cache_config.num_gpu_blocks,
        "eager": config.model_config.enforce_eager,
        "prefix_cache": config.cache_config.enable_prefix_caching,
        "async_scheduling": bool(config.scheduler_config.async_scheduling),
    }
