"""A vLLM without vLLM: modules of that name whose engine schedules as the real one and computes in float64.

>>> fake_vllm.install(monkeypatch)
>>> VLLMEngine().open("cpu", threads=1).id
'vllm:cpu'
"""

from __future__ import annotations

import sys
from copy import copy
from dataclasses import dataclass, field, replace
from enum import Enum
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest

from membound.kernels import reference
from membound.kernels.inputs import ModelInputs
from membound.kernels.seeded import make_inputs
from membound.kernels.weights.formats import F32, Weight, dequantize
from membound.kernels.weights.layers import I64, LayerWeights
from membound.kernels.work import parse

FORMATS = {"float32": "f32", "bfloat16": "bf16", "float16": "f16"}


class RequestOutputKind(Enum):
    DELTA = 1


class SamplingParams:
    def __init__(self, **options: Any) -> None:
        self.options = options

    def clone(self) -> SamplingParams:
        return SamplingParams(**self.options)


@dataclass
class EngineArgs:
    """Takes what the real one takes here, and nothing else."""

    model: str
    skip_tokenizer_init: bool
    dtype: str
    seed: int
    enforce_eager: bool
    distributed_executor_backend: str
    async_scheduling: bool
    enable_prefix_caching: bool
    enable_chunked_prefill: bool
    long_prefill_token_threshold: int
    max_num_batched_tokens: int
    max_num_seqs: int
    max_model_len: int
    kv_cache_memory_bytes: int
    disable_log_stats: bool


@dataclass
class Request:
    """A sequence: tokens known, tokens computed, tokens chosen."""

    name: str
    tokens: list[int]
    most: int
    prompt: int
    done: int = 0
    chosen: list[int] = field(default_factory=list)


class Loaded:
    """All of a model's numbers in memory, as the folder goes once the engine has started."""

    def __init__(self, inputs: ModelInputs) -> None:
        self.layers = [inputs.layer(index) for index in range(inputs.model.layers)]
        self.norm, self.head, self.table = (
            inputs.final_norm(),
            inputs.lm_head(),
            inputs.source.embedding_table(),
        )

    def layer(self, index: int) -> LayerWeights:
        return self.layers[index]

    def final_norm(self) -> F32:
        return self.norm

    def lm_head(self) -> Weight:
        return self.head

    def embedding_table(self) -> Weight:
        return self.table

    def embedding(self, tokens: I64) -> F32:
        return dequantize(self.table)[tokens]

    def hidden_states(self, rows: int) -> F32:
        raise NotImplementedError("an engine starts from tokens")


class LLMEngine:
    """First come, first served within the budget of tokens; greedy; exact."""

    latest: LLMEngine | None = None

    def __init__(self, arguments: EngineArgs) -> None:
        self.arguments = arguments
        self.files = sorted(path.name for path in Path(arguments.model).iterdir())
        self.requests: list[Request] = []
        fmt = FORMATS[arguments.dtype]
        made = make_inputs(parse(f"prefill:model={arguments.model},tokens=1,weight={fmt},kv={fmt}"), 0)
        assert isinstance(made, ModelInputs)
        self.model = replace(made, source=Loaded(made))
        self.vllm_config = SimpleNamespace(
            model_config=SimpleNamespace(dtype=f"torch.{arguments.dtype}", enforce_eager=True),
            cache_config=SimpleNamespace(
                cache_dtype="auto", block_size=128, num_gpu_blocks=9, enable_prefix_caching=False
            ),
            scheduler_config=SimpleNamespace(async_scheduling=False),
        )

    @classmethod
    def from_engine_args(cls, arguments: EngineArgs) -> LLMEngine:
        cls.latest = cls(arguments)
        return cls.latest

    def add_request(self, name: str, prompt: dict[str, list[int]], params: SamplingParams) -> None:
        assert params.options["temperature"] == 0
        assert params.options["ignore_eos"]
        tokens = list(prompt["prompt_token_ids"])
        self.requests.append(Request(name, tokens, params.options["max_tokens"], len(tokens)))

    def step(self) -> list[Any]:
        """One pass over the requests; those that reach the end of their tokens choose one more."""
        room, outputs = self.arguments.max_num_batched_tokens, []
        for request in list(self.requests):
            count = min(len(request.tokens) - request.done, room, self.arguments.long_prefill_token_threshold)
            request.done, room = request.done + count, room - count
            if count and request.done == len(request.tokens):
                outputs.append(self._choose(request))
        return outputs[::-1]  # the order of the requests is not promised

    def _choose(self, request: Request) -> Any:
        tokens = np.array([request.tokens])
        work = copy(self.model.work)  # `replace` would look for the folder, which is gone
        object.__setattr__(work, "tokens", len(request.tokens))
        x = self.model.source.embedding(tokens[0])
        logits = reference.compute(replace(self.model, work=work, tokens=tokens, x=x), 0)[0]
        token = self.pick(logits)
        logprob = float(logits[token] - logits.max() - np.log(np.exp(logits - logits.max()).sum()))
        request.tokens.append(token)
        request.chosen.append(token)
        if len(request.chosen) == request.most:
            self.requests.remove(request)
        completion = SimpleNamespace(token_ids=[token], logprobs=[{token: SimpleNamespace(logprob=logprob)}])
        return SimpleNamespace(request_id=request.name, outputs=[completion])

    def pick(self, logits: np.ndarray[Any, Any]) -> int:
        return int(logits.argmax())


def install(monkeypatch: pytest.MonkeyPatch, device_type: str = "cpu") -> None:
    """Make `import vllm` find these; `device_type` is what the platform calls its device."""
    contents = {
        "vllm": {"SamplingParams": SamplingParams},
        "vllm.sampling_params": {"RequestOutputKind": RequestOutputKind},
        "vllm.platforms": {"current_platform": SimpleNamespace(device_type=device_type)},
        "vllm.engine": {},
        "vllm.engine.arg_utils": {"EngineArgs": EngineArgs},
        "vllm.v1": {},
        "vllm.v1.engine": {},
        "vllm.v1.engine.llm_engine": {"LLMEngine": LLMEngine},
    }
    for name, content in contents.items():
        module = ModuleType(name)
        vars(module).update(content)
        monkeypatch.setitem(sys.modules, name, module)
