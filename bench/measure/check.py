"""What a backend should have computed, and how far its output is from that.

>>> expected = cached_reference(inputs, slot=0, folder=plan.reference_dir)
>>> error_of(backend.output(), inputs, expected) <= reference.tolerance(inputs.work)
True
"""

from __future__ import annotations

import os
from contextlib import suppress
from math import inf, isfinite
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from membound.backends.api import Tokens
from membound.bench.measure.failures import WrongAnswerError
from membound.kernels import reference
from membound.kernels.inputs import Inputs, ModelInputs
from membound.kernels.prompt import key_of, scores
from membound.kernels.reference import F64

LOGIT_SPREAD = 6.0
"""A logit may miss by so many times the root mean square error that the tolerance allows. Of normally
distributed errors four times is passed once in 16 000, and a long case compares thousands."""
SHOWN_TOKENS = 8


def cached_reference(inputs: Inputs, slot: int, folder: Path) -> F64:
    """The float64 reference of an input set, from `folder` if a worker computed it before.

    Written to a file of its own and renamed, so that another worker sees all of it or nothing.
    """
    path = folder / f"{key_of(inputs, slot)}.npy"
    with suppress(FileNotFoundError, ValueError, EOFError):  # the latter two: torn by a power failure
        known: F64 = np.load(path, allow_pickle=False)
        return known
    expected = reference.compute(inputs, slot)
    folder.mkdir(parents=True, exist_ok=True)
    scratch = folder / f"{path.name}.{os.getpid()}.tmp"
    with scratch.open("wb") as file:
        np.save(file, expected, allow_pickle=False)
    scratch.rename(path)
    return expected


def check_output(
    output: Any, inputs: Inputs, slot: int, folder: Path | None = None
) -> tuple[float, list[int]]:
    """The error of an output against the float64 reference, and the tokens that a model chose first.

    The reference is taken from `folder` where another worker has computed it. Raises WrongAnswerError for an output
    that is no array of real numbers of the right shape, holds values that are not finite, or misses the tolerance.
    """
    expected = reference.compute(inputs, slot) if folder is None else cached_reference(inputs, slot, folder)
    is_array = isinstance(output, np.ndarray)
    if not isinstance(output, Tokens) and not (is_array and output.dtype.kind in "fiu"):
        kind = f"an array of {output.dtype}" if is_array else f"of type {type(output).__name__}"
        raise WrongAnswerError(f"output is {kind}, not an array of float32", None)
    wanted = expected.shape if isinstance(output, np.ndarray) else (len(expected), output.launches)
    if output.shape != wanted or not output.shape[-1]:
        raise WrongAnswerError(f"output has shape {output.shape}, the reference {wanted}", None)
    tokens = first_tokens(output) if isinstance(inputs, ModelInputs) else []
    error, tolerance = error_of(output, inputs, expected), reference.tolerance(inputs.work)
    if not isfinite(error):
        raise WrongAnswerError(f"output on input set {slot} holds values that are not finite", None)
    if error > tolerance:
        raise WrongAnswerError(f"error {error:.2g} on input set {slot} exceeds {tolerance:.2g}", error)
    return error, tokens


def error_of(output: npt.NDArray[np.float32] | Tokens, inputs: Inputs, expected: F64) -> float:
    """The error of an output, to be held against `reference.tolerance`; inf if it is not finite or ill-shaped.

    `expected` is the work's own output, which is where an engine's tokens begin.
    """
    if not isinstance(output, Tokens):
        return reference.relative_error(output, expected)
    assert isinstance(inputs, ModelInputs)
    chosen = output.chosen
    if chosen.min() < 0 or chosen.max() >= inputs.model.vocab:
        return inf
    logits = expected[:, None] if chosen.shape[1] == 1 else scores(inputs, chosen)
    return token_error(output, logits)


def token_error(output: Tokens, logits: F64) -> float:
    """How far greedily chosen tokens [batch, n] are from logits [batch, n, vocab] that are right.

    The largest of what a chosen token's logit lacks to the best one, and of the difference between the
    engine's logarithm of its probability and that of `logits`, over LOGIT_SPREAD times the logits' root
    mean square: at a token that is chosen right it is below the relative error of the engine's logits.
    """
    best = logits.max(-1)
    of_chosen = np.take_along_axis(logits, output.chosen[..., None], -1)[..., 0]
    misses = best - of_chosen
    if output.logprobs is not None:
        total = best + np.log(np.exp(logits - best[..., None]).sum(-1))
        misses = np.maximum(misses, np.abs(output.logprobs - (of_chosen - total)))
    error = float(misses.max()) / (LOGIT_SPREAD * float(np.sqrt(np.mean(logits * logits))))
    return error if isfinite(error) else inf


def first_tokens(output: npt.NDArray[np.float32] | Tokens) -> list[int]:
    """The token that the first launch ends with, for each of the first SHOWN_TOKENS sequences."""
    tokens = output.chosen[:, 0] if isinstance(output, Tokens) else output.argmax(-1)
    return [int(token) for token in tokens[:SHOWN_TOKENS]]
