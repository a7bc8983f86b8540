"""What engines serve: steps and prompts of more models and formats than are run here, with their bytes and FLOPs.

>>> work = ServedStep("deepseek-v3", batch=1, context=1024, weight="fp8")
>>> round(work.streamed_bytes / 1e9, 1), round(work.resident_bytes / 1e9), round(work.flops / 1e9)
(36.6, 671, 91)

Nothing here is measured: predictions need models that no machine at hand holds. Models that are run here have the
same weights, scales and cache as their `Step` and `Prefill`; activations, which engines keep in 16 bits and fuse, are
left out. Formulas: docs/prediction.md.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from membound.kernels.operations import ACTS, SpecError, check_one_of, check_positive, spec_of
from membound.kernels.parts import Decoder
from membound.kernels.shapes import shape_of

WEIGHT_BITS = {
    "f32": 32.0,
    "bf16": 16.0,
    "f16": 16.0,
    "fp8": 8.0,
    "int8": 8.0,
    "q8_0": 8.5,
    "int4g32": 4.5,
    "int4g128": 4.125,
    "int4g32z": 4.75,
    "int4g128z": 4.1875,
    "fp8g128": 8.25,
    "fp8b128": 8.001953125,
    "q4_0": 4.5,
    "q4_k": 4.5,
    "q4_k_m": 4.85,
    "nvfp4": 4.5,
    "mxfp4": 4.25,
}
"""Bits a stored weight takes with its scales. q4_k_m mixes Q4_K and Q6_K: its files hold 4.8 to 5.0 bits a weight."""
KV_BYTES = {"f32": 4.0, "bf16": 2.0, "f16": 2.0, "fp8": 1.0, "int8": 1.0}


@dataclass(frozen=True, slots=True)
class ServedStep:
    """A decode step as an engine does it: one token for each of `batch` sequences that hold `context` tokens."""

    model: str
    batch: int = 1
    context: int = 1024
    weight: str = "bf16"
    kv: str = "bf16"
    act: str = "float"
    layers: int = 0
    cache: str = "random"
    kind: ClassVar[str] = "step"

    def __post_init__(self) -> None:
        check_positive(self, "batch", "context")
        _check_served(self)

    @property
    def spec(self) -> str:
        """The text that `parse` turns back into this work."""
        return spec_of(self)

    @property
    def shape(self) -> Decoder:
        """The model, with as many layers as are run."""
        return shape_of(self.model).with_layers(self.layers)

    @property
    def streamed_bytes(self) -> float:
        """Bytes of the weights that the step reads."""
        return self.shape.streamed_weights(self.batch) * WEIGHT_BITS[self.weight] / 8

    @property
    def resident_bytes(self) -> float:
        """Bytes of all weights in memory."""
        return self.shape.stored_weights * WEIGHT_BITS[self.weight] / 8

    @property
    def token_cache_bytes(self) -> float:
        """Bytes of cache for a token of a sequence, where layers with a window hold no more than that: the mean over this context."""
        return self.shape.cached_numbers(self.context) / (self.context + 1) * KV_BYTES[self.kv]

    @property
    def cache_bytes(self) -> float:
        """Bytes of cache, and of states that do not grow, that the step reads and writes."""
        shape = self.shape
        cache = shape.cached_numbers(self.context) * KV_BYTES[self.kv]
        return self.batch * (cache + sum(shape.state_bytes))

    @property
    def flops(self) -> float:
        """Products with the weights, and attention over context + 1 tokens."""
        shape = self.shape
        return self.batch * (2 * shape.token_weights + shape.attention_flops(self.context))


@dataclass(frozen=True, slots=True)
class ServedPrefill:
    """A prompt as an engine does it: `tokens` tokens of each of `batch` sequences, causal attention."""

    model: str
    batch: int = 1
    tokens: int = 512
    weight: str = "bf16"
    kv: str = "bf16"
    act: str = "float"
    layers: int = 0
    kind: ClassVar[str] = "prefill"

    def __post_init__(self) -> None:
        check_positive(self, "batch", "tokens")
        _check_served(self)

    @property
    def spec(self) -> str:
        """The text that `parse` turns back into this work."""
        return spec_of(self)

    @property
    def shape(self) -> Decoder:
        """The model, with as many layers as are run."""
        return shape_of(self.model).with_layers(self.layers)

    @property
    def streamed_bytes(self) -> float:
        """Bytes of the weights that the prompt reads."""
        return self.shape.streamed_weights(self.batch * self.tokens) * WEIGHT_BITS[self.weight] / 8

    @property
    def resident_bytes(self) -> float:
        """Bytes of all weights in memory."""
        return self.shape.stored_weights * WEIGHT_BITS[self.weight] / 8

    @property
    def token_cache_bytes(self) -> float:
        """Bytes of cache for a token of a sequence."""
        return self.shape.token_numbers * KV_BYTES[self.kv]

    @property
    def cache_bytes(self) -> float:
        """Bytes of cache that are written and read once, and of states that are left behind."""
        return self.batch * (2 * self.tokens * self.token_cache_bytes + self.shape.state_bytes[1])

    @property
    def flops(self) -> float:
        """Products of every token but the LM head's, which sees one a sequence, and causal attention."""
        shape = self.shape
        head = shape.vocab * shape.hidden
        products = self.tokens * (shape.token_weights - head) + head
        return self.batch * (2 * products + shape.prompt_attention_flops(self.tokens))


def _check_served(work: ServedStep | ServedPrefill) -> None:
    check_one_of(work, "weight", WEIGHT_BITS)
    check_one_of(work, "kv", KV_BYTES)
    check_one_of(work, "act", ACTS)
    shape = shape_of(work.model)
    count = len(shape.layers)
    if not isinstance(work.layers, int) or not 0 <= work.layers <= count:
        raise SpecError(f"{work.kind}: layers={work.layers!r} must be from 1 to {count} (0: all)")
    least = max(shape.layers.index(kind) for kind in shape.kinds) + 1
    if 0 < work.layers < least:
        raise SpecError(
            f"{work.kind}: {work.model} has {len(shape.kinds)} kinds of layers; layers={work.layers} must be {least} at least, "
            "so that each occurs"
        )
