"""vLLM's engine within the worker process: `vllm:cpu`, `vllm:cuda`; a launch is one step of the engine, scheduler and all.

Variants follow a plus sign: `cpu+f32` and `cuda+f32` widen 16-bit weights to float32 on loading;
`cuda+eager` runs without CUDA graphs; `cpu+tokens` and `cuda+tokens` ask for tokens without the logarithms of their
probabilities, as a server does. Without one, it computes in the format that the work's weights have.

The engine loads a folder that membound exports with the work's weights, runs a prompt of the work's tokens, and then
steps; so it takes steps with cache=prompt, and prompts. It outputs the tokens that it chooses greedily and the
logarithms of their probabilities.
"""

from __future__ import annotations

import gc
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from membound.backends.api import NO_FILES, Backend, Device, Tokens, cpu_name
from membound.backends.running_threads import check_torch_threads
from membound.errors import BackendUnavailable, Unsupported
from membound.kernels.export import refusal
from membound.kernels.features import tokens_of
from membound.kernels.inputs import Inputs, ModelInputs
from membound.kernels.work import OnnxStep, Prefill, Step, Work

if TYPE_CHECKING:
    from membound.backends.vllm_engine.requests import Decoding, Prompts

FORMATS = ("f32", "bf16", "f16")
VARIANTS = {"cpu": ("f32",), "cuda": ("f32", "eager")}
TOKENS = "tokens"
"""A variant that is measured only where it is asked for: it has less to be checked by."""


class VLLMEngine(Backend):
    """Whole steps and prompts of dense models in plain formats."""

    unopened = tuple(VARIANTS)

    def __init__(self) -> None:
        self._kind = "cpu"
        self._variants: tuple[str, ...] = ()
        self._requests: Decoding | Prompts | None = None
        self._work: Step | Prefill | None = None
        self._settings: dict[str, Any] = {}

    @classmethod
    def devices(cls) -> Sequence[str]:
        """The device that this build of vLLM is for, and its variants. Raises BackendUnavailable."""
        from membound.backends.vllm_engine.installed import device_kind

        kind = device_kind()
        return [kind, *(f"{kind}+{variant}" for variant in VARIANTS[kind])]

    def open(self, device: str, threads: int) -> Device:
        """Open `cpu` or `cuda`; the environment has set the number of OpenMP threads.

        Raises BackendUnavailable if vLLM is not installed, cannot be imported, is built for another device, or if fewer
        threads work than the environment asks for: its engine runs in this process, on torch's threads.
        """
        from membound.backends.vllm_engine.installed import device_kind, device_name, versions

        base, *variants = device.split("+")
        kind = device_kind()
        if base != kind:
            raise BackendUnavailable(f"the vllm installed here is built for {kind}, not for {base!r}")
        for variant in variants:
            if variant not in (*VARIANTS[kind], TOKENS) or variants.count(variant) > 1:
                raise BackendUnavailable(
                    f"unknown variant {variant!r} of vllm:{kind}; known: {', '.join((*VARIANTS[kind], TOKENS))}"
                )
        if kind == "cpu":
            check_torch_threads("vLLM's torch")
        self._kind, self._variants = kind, tuple(variants)
        name = cpu_name() if kind == "cpu" else device_name()
        return Device(f"vllm:{device}", name, threads, versions())

    def supports(self, work: Work) -> str | None:
        """None, or the reason why an engine cannot run the work as it is."""
        if isinstance(work, OnnxStep):
            return NO_FILES
        if not isinstance(work, Step | Prefill):
            return "an engine runs whole steps and prompts only"
        if isinstance(work, Step) and work.cache != "prompt":
            return "an engine holds only what it computed itself: ask for cache=prompt"
        if isinstance(work, Step) and work.queries > 1:
            return f"an engine steps by tokens that it chose itself, one a sequence, not {work.queries}"
        if work.weight not in FORMATS:
            return f"weights are exported for engines in {', '.join(FORMATS)} only"
        if work.kv != work.weight:
            return f"vLLM keeps its cache in the format of the model: ask for kv={work.weight}"
        if not work.shape.gated:
            return "no architecture of vLLM has an MLP without a gate"
        if reason := refusal(work.shape, tokens_of(work)):
            return f"the export for vLLM: {reason}"
        if not work.shape.dense:
            return "experts and latent attention are exported for vLLM, but were not compared with the reference there yet"
        if "f32" in self._variants and work.weight == "f32":
            return f"the weights are float32 already: vllm:{self._kind} computes so"
        return None

    def prepare(self, work: Work, inputs: Inputs) -> None:
        """Export the model, load it, run the prompts. Raises Unsupported, MemoryError with the bytes."""
        from membound.backends.vllm_engine.requests import Decoding, Prompts
        from membound.backends.vllm_engine.start import sizes_of, start

        self.close()
        if (reason := self.supports(work)) is not None:
            raise Unsupported(reason)
        if not isinstance(inputs, ModelInputs):
            raise AssertionError(f"{type(inputs).__name__} is no ModelInputs")
        self._work = inputs.work
        sizes = sizes_of(self.computed_work)
        engine, self._settings = start(inputs, self.computed_work.weight, sizes, "eager" in self._variants)
        kind = Decoding if isinstance(inputs.work, Step) else Prompts
        self._requests = kind(engine, inputs, sizes, logprobs=TOKENS not in self._variants)

    @property
    def computed_work(self) -> Step | Prefill:
        """The work in the formats that the engine stores and computes in."""
        if self._work is None:
            raise AssertionError("no work")
        return replace(self._work, weight="f32", kv="f32") if "f32" in self._variants else self._work

    def launch(self, slot: int) -> None:
        """One step of the engine; for prompts, adding the requests too."""
        self._prepared.step()

    def sync(self) -> None:
        """Nothing is left to wait for: tokens are on the host when a step ends."""

    def output(self) -> Tokens:
        """All tokens since the prompt for a step; those of the last launch for prompts."""
        return self._prepared.tokens()

    def stored_bytes(self) -> int | None:
        """The work's bytes in float32, if it was widened."""
        return self.computed_work.traffic.total_bytes if "f32" in self._variants else None

    def settings(self) -> dict[str, Any]:
        """Formats as stored and as computed, cache blocks, graphs, and the contexts that were timed."""
        return self._settings | self._prepared.settings()

    @property
    def _prepared(self) -> Decoding | Prompts:
        if self._requests is None:
            raise RuntimeError("launch before prepare")
        return self._requests

    def close(self) -> None:
        """Drop the engine with its weights and cache."""
        if self._requests is not None:
            self._requests.end()
            self._requests = None
            gc.collect()
