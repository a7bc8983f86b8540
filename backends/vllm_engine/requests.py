"""Requests to an engine: sequences that decode one token in each step, and prompts that end with their first token."""

from __future__ import annotations

from itertools import count
from typing import Any

import numpy as np

from membound.backends.api import Tokens
from membound.backends.vllm_engine.start import Sizes
from membound.kernels.inputs import ModelInputs
from membound.kernels.work import Step


class EngineStepError(RuntimeError):
    """A step did something other than give each sequence its next token."""


class _Requests:
    """Sequences of one engine, greedy; with `logprobs` each has the logarithm of its token's probability too."""

    def __init__(self, engine: Any, inputs: ModelInputs, most_tokens: int, logprobs: bool) -> None:
        from vllm import SamplingParams
        from vllm.sampling_params import RequestOutputKind

        if inputs.tokens is None:
            raise AssertionError("no inputs.tokens")
        self._engine = engine
        self._prompts: list[list[int]] = inputs.tokens.tolist()
        self._steps: list[list[Any]] = []
        self._ids = count()
        self._logprobs = logprobs
        self._sampling = SamplingParams(
            temperature=0.0,
            max_tokens=most_tokens,
            ignore_eos=True,
            detokenize=False,
            logprobs=0 if logprobs else None,  # 0: only of the chosen token
            output_kind=RequestOutputKind.DELTA,
        )

    def _add(self) -> None:
        """A request for each prompt."""
        for prompt in self._prompts:
            self._engine.add_request(
                f"{next(self._ids):09d}", {"prompt_token_ids": prompt}, self._sampling.clone()
            )

    def _take(self, outputs: list[Any]) -> None:
        if len(outputs) != len(self._prompts):
            raise EngineStepError(
                f"a step gave {len(outputs)} of {len(self._prompts)} sequences a token; the rest was not scheduled"
            )
        self._steps.append(outputs)

    def tokens(self) -> Tokens:
        """The chosen tokens, in the order of the sequences. Raises EngineStepError if a step gave none or several."""
        chosen, logprobs = [], []
        for outputs in self._steps:
            ordered = sorted(outputs, key=lambda output: str(output.request_id))
            one = [output.outputs[0] for output in ordered]
            if any(len(completion.token_ids) != 1 for completion in one):
                raise EngineStepError("a step gave a sequence no token or several")
            ids = [int(completion.token_ids[0]) for completion in one]
            chosen.append(ids)
            if self._logprobs:
                logprobs.append([float(c.logprobs[0][i].logprob) for c, i in zip(one, ids, strict=True)])
        return Tokens(np.array(chosen, np.int64).T, np.array(logprobs).T if self._logprobs else None)

    def end(self) -> None:
        """Drop the engine."""
        self._engine = None
        self._steps = []


class Decoding(_Requests):
    """A step's sequences: prompts run up to their last token, which the first launch takes as the work does."""

    def __init__(self, engine: Any, inputs: ModelInputs, sizes: Sizes, logprobs: bool = True) -> None:
        super().__init__(engine, inputs, sizes.growth, logprobs)
        if not isinstance(inputs.work, Step):
            raise AssertionError(f"{type(inputs.work).__name__} is no Step")
        self._context, self._growth = inputs.work.context, sizes.growth
        self._add()
        for _ in range(self._context // sizes.chunk):
            if any(output.outputs[0].token_ids for output in self._engine.step()):
                raise EngineStepError("a prompt ended before its last token was left alone")

    def step(self) -> None:
        """One step of the engine: a token for each sequence, which grows by one."""
        if len(self._steps) == self._growth:
            raise EngineStepError(
                f"sequences have grown by {self._growth} tokens, as far as their cache reaches"
            )
        self._take(self._engine.step())

    def settings(self) -> dict[str, Any]:
        """The number of tokens that the first and the last launch found in the cache."""
        return {"context_first": self._context, "context_last": self._context + len(self._steps) - 1}


class Prompts(_Requests):
    """A prompt's sequences: every launch adds them anew and runs them in one step."""

    def __init__(self, engine: Any, inputs: ModelInputs, sizes: Sizes, logprobs: bool = True) -> None:
        super().__init__(engine, inputs, 1, logprobs)

    def step(self) -> None:
        """Add the requests, and run the step in which all of them begin and end."""
        self._steps.clear()
        self._add()
        self._take(self._engine.step())

    def settings(self) -> dict[str, Any]:
        """Nothing changes from launch to launch."""
        return {}
