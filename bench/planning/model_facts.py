"""What a model is, whether it can be run here or only counted: `membound list --model`.

>>> ModelFacts.of("gpt-oss-20b").as_json()["layers"]
24
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

from membound.kernels.mixers import GatedDelta, Mamba2
from membound.kernels.model import Model, ModelError
from membound.kernels.models import get_model
from membound.kernels.parts import Decoder, Experts, Latent, Layer, Mixer, Mlp
from membound.kernels.shapes import shape_of
from membound.kernels.weights.stored.facts import StoredFacts, stored_facts
from membound.results.wording import amount
from membound.spec_text import quoted

BF16_BYTES = 2
BATCHES = (1, 8, 64)
CONTEXTS = (1024, 32768)


@dataclass(frozen=True, slots=True)
class ModelFacts:
    """A model's shape, and why it cannot be run here; '' where it can."""

    model: str
    shape: Decoder
    not_run: str
    stored: StoredFacts | None = None

    @classmethod
    def of(cls, model: str) -> ModelFacts:
        """Raises SpecError with the nearest names, ModelError for a folder of no known family."""
        shape = shape_of(model)
        stored = _stored(model) if shape.folder else None
        try:
            found = get_model(model if shape.folder else shape.name)
            if found.folder:
                _check_weights(found)
        except ModelError as error:
            return cls(model, shape, str(error), stored)
        return cls(model, shape, "", stored)

    def as_json(self) -> dict[str, Any]:
        """Numbers of parameters, and bytes in bf16."""
        shape = self.shape
        return {
            "model": self.model,
            "parameters": shape.parameters,
            "streamed_parameters": {str(batch): round(shape.streamed_weights(batch)) for batch in BATCHES},
            "layers": len(shape.layers),
            "kinds": [{"layers": count, "holds": held(kind)} for kind, count in shape.kinds.items()],
            "hidden": shape.hidden,
            "vocab": shape.vocab,
            "tied": shape.tied,
            "cache_bytes": {str(context): BF16_BYTES * shape.cached_numbers(context) for context in CONTEXTS},
            "state_bytes": shape.state_bytes[0],
            "left_out": shape.left_out,
            "not_run": self.not_run,
            "stored": None if self.stored is None else asdict(self.stored),
        }

    def lines(self) -> Iterator[str]:
        """The same for people."""
        shape = self.shape
        bytes_ = amount(BF16_BYTES * shape.parameters, "B")
        yield f"{self.model}: {shape.parameters / 1e9:.4g} billion parameters, {bytes_} in bf16"
        batches = BATCHES if shape.experts else BATCHES[:1]
        streamed = ", ".join(f"{shape.streamed_weights(b) / 1e9:.4g} at batch {b}" for b in batches)
        yield f"a decode step streams, in billions: {streamed if shape.experts else streamed.split()[0]}"
        for kind, count in shape.kinds.items():
            yield f"{count} {'layer' if count == 1 else 'layers'}: {held(kind)}"
        tied = "the embedding table" if shape.tied else "its own"
        yield f"hidden {shape.hidden}, vocabulary {shape.vocab}, LM head: {tied}"
        cache = ", ".join(
            f"{amount(BF16_BYTES * shape.cached_numbers(context), 'B')} at {context}" for context in CONTEXTS
        )
        yield f"cache of a sequence in bf16, by tokens: {cache}"
        if shape.state_bytes[0]:
            read, written = (amount(b, "B") for b in shape.state_bytes)
            yield f"state of a sequence in float32 at any context: {read} read and {written} written each step"
        if self.stored is not None:
            size, streamed = (amount(b, "B") for b in (self.stored.nbytes, self.stored.streamed_bytes))
            beside = amount(self.stored.beside_bytes, "B")
            others = f" and {beside} that no token takes" if self.stored.beside_bytes else ""
            yield f"stored as {self.stored.title}: {self.stored.tensors} tensors of {size}, {streamed} without an untied embedding{others}"
        if shape.left_out:
            yield f"left out: {shape.left_out}"
        if self.not_run:
            yield f"not run here: {self.not_run}"
            yield f"predicted: membound predict step:model={self.model} --on h100"
        else:
            quantised = self.stored is not None and self.stored.title != "floats"
            as_stored = ",weight=stored" if quantised else ""
            name = (
                self.model if shape.folder else shape.name
            )  # another name for a shape is one of predictions alone
            yield f"run here: membound run step:model={quoted(name)}{as_stored}"
            if shape.folder and shape.experts:
                yield "experts: those that its own router chooses (routes=own), of one row a step: batch=1"


def _stored(model: str) -> StoredFacts | None:
    """What a model's files hold; None where there are none, or none that can be read."""
    try:
        return stored_facts(model)
    except ModelError:
        return None


def _check_weights(model: Model) -> None:
    """Raises ModelError where a folder's safetensors are missing, damaged or not those of its config.json. Numbers are not read."""
    from membound.kernels.weights.checkpoint import Checkpoint

    Checkpoint(model, "f32", seed=0)


def held(layer: Layer) -> str:
    """What a layer holds, in words."""
    return f"{_mixer(layer.mixer)}; {_mlp(layer.mlp)}"


def _mixer(mixer: Mixer) -> str:
    if isinstance(mixer, Latent):
        ranks = f"KV rank {mixer.kv_rank} + {mixer.rope_dim}"
        index = f", {mixer.index.chosen} tokens by an index of {mixer.index.head_dim}" if mixer.index else ""
        return f"latent attention of {mixer.q_heads} heads, {ranks}{index}"
    if isinstance(mixer, GatedDelta):
        heads = f"{mixer.value_heads} heads ({mixer.key_heads} of keys)"
        return f"gated DeltaNet of {heads}, a state of {mixer.key_dim} × {mixer.value_dim} each"
    if isinstance(mixer, Mamba2):
        return f"Mamba-2 of {mixer.heads} heads, a state of {mixer.head_dim} × {mixer.state_dim} each"
    seen = f", window {mixer.window}" if mixer.window else f", chunk {mixer.chunk}" if mixer.chunk else ""
    still = " without RoPE" if mixer.rope is None else ""
    narrow = f", values of {mixer.value_dim}" if mixer.value_dim else ""
    gated = "gated " if mixer.gated else ""
    heads = f"{mixer.q_heads} heads ({mixer.kv_heads} KV) of {mixer.head_dim}"
    return f"{gated}attention of {heads}{narrow}{still}{seen}"


def _mlp(mlp: Mlp | Experts) -> str:
    if isinstance(mlp, Mlp) and not mlp.width:
        return "no MLP"
    if isinstance(mlp, Mlp):
        return f"{'gated ' if mlp.gated else ''}MLP of {mlp.width}"
    shared = f" and {mlp.shared.width} for every token" if mlp.shared else ""
    return f"{mlp.chosen} of {mlp.count} experts of {mlp.expert.width}{shared}"
