"""What a backend should have computed, and how far its output is from that.

>>> expected = cached_reference(inputs, slot=0, folder=plan.reference_dir)
>>> error_of(backend.output(), inputs, expected) <= reference.tolerance(inputs.work)
True
"""

from __future__ import annotations

import os
from contextlib import suppress
from hashlib import sha256
from io import BytesIO
from math import inf, isfinite
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from membound.backends.api import Tokens
from membound.bench.measure.failures import WrongAnswerError
from membound.kernels import reference
from membound.kernels.inputs import Inputs, ModelInputs, OnnxInputs
from membound.kernels.prompt import key_of, scores
from membound.kernels.reference import F64
from membound.results.fields import LARGEST

LOGIT_SPREAD = 6.0
"""A logit may miss by this many times the root mean square error that the tolerance allows. Of normally
distributed errors four times is passed once in 16 000, and a long case compares thousands."""
SHOWN_TOKENS = 8
REFERENCE = ".reference"
"""How the file of a reference ends."""
DIGEST_BYTES = 32


def cached_reference(inputs: Inputs, slot: int, folder: Path) -> F64:
    """The float64 reference of an input set, from `folder` if a worker computed it before.

    It is kept behind its SHA-256: a damaged one would call every right backend wrong. Written to a file of its own and
    renamed, so that another worker sees all of it or nothing.
    """
    path = folder / f"{key_of(inputs, slot)}{REFERENCE}"
    with suppress(OSError, ValueError, EOFError):  # not there, torn, damaged
        return _stored(path)
    expected = reference.compute(inputs, slot)
    with suppress(OSError):  # where it cannot be kept, the next worker computes it again
        _store(path, expected)
    return expected


def _stored(path: Path) -> F64:
    content = path.read_bytes()
    digest, array = content[:DIGEST_BYTES], content[DIGEST_BYTES:]
    if sha256(array).digest() != digest:
        raise ValueError(f"{path} is damaged")
    known: F64 = np.load(BytesIO(array), allow_pickle=False)
    return known


def _store(path: Path, expected: F64) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    array = BytesIO()
    np.save(array, expected, allow_pickle=False)
    scratch = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    try:
        scratch.write_bytes(sha256(array.getvalue()).digest() + array.getvalue())
        scratch.rename(path)
    except OSError:
        scratch.unlink(missing_ok=True)
        raise


def check_output(
    output: Any, inputs: Inputs, slot: int, folder: Path | None = None
) -> tuple[float, list[int]]:
    """The error of an output against the float64 reference, and the tokens that a model chose first.

    The reference is taken from `folder` where another worker has computed it. Raises WrongAnswerError for an output
    that is no array of real numbers of the right shape, holds values that are not finite, or misses the tolerance.
    """
    expected = reference.compute(inputs, slot) if folder is None else cached_reference(inputs, slot, folder)
    if wrong := wrong_kind(output, inputs):
        raise WrongAnswerError(f"output is {wrong}, not an array of float32", None)
    wanted = (len(expected), output.launches) if isinstance(output, Tokens) else expected.shape
    if output.shape != wanted or not output.shape[-1]:
        raise WrongAnswerError(f"output has shape {output.shape}, the reference {wanted}", None)
    tokens = first_tokens(output) if isinstance(inputs, ModelInputs | OnnxInputs) else []
    least = reference.typical_size(inputs, slot) if expected.size < reference.FEW_OUTPUTS else 0.0
    error, tolerance = error_of(output, inputs, expected, least), reference.tolerance(inputs.work)
    if not isfinite(error):
        raise WrongAnswerError(f"output on input set {slot} holds values that are not finite", None)
    if error > tolerance:
        told = error if error <= LARGEST else None  # memory that was never written holds any number
        raise WrongAnswerError(f"error {error:.2g} on input set {slot} exceeds {tolerance:.2g}", told)
    return error, tokens


def same_bits(output: Any, first: str) -> str:
    """What the bits of an output are known by, which must be `first` unless that is empty. Raises WrongAnswerError.

    One set of inputs gives one output: a file whose launches change what the next one reads would be timed on other work.
    """
    found = sha256(np.ascontiguousarray(output).tobytes()).hexdigest()
    if first and found != first:
        raise WrongAnswerError("launches on equal inputs gave outputs of different bits", None)
    return found


def wrong_kind(output: Any, inputs: Inputs) -> str:
    """What an output is that no reference can be compared with, or ''."""
    if isinstance(output, Tokens) and isinstance(inputs, ModelInputs):
        chosen, logprobs = output.chosen, output.logprobs
        if not (_is_array(chosen, "i") and chosen.ndim == 2):
            return f"tokens that are {_kind(chosen)}"
        if logprobs is not None and not (_is_array(logprobs, "f") and logprobs.shape == chosen.shape):
            return f"tokens with probabilities that are {_kind(logprobs)}"
        return ""
    return "" if _is_array(output, "fiu") else _kind(output)


def _is_array(value: Any, kinds: str) -> bool:
    """Of these kinds of dtype; one that hides some of its values is none, as the rest alone would be compared."""
    return (
        isinstance(value, np.ndarray)
        and not isinstance(value, np.ma.MaskedArray)
        and value.dtype.kind in kinds
    )


def _kind(value: Any) -> str:
    if isinstance(value, np.ma.MaskedArray):
        return f"a masked array of {value.dtype}"
    if isinstance(value, np.ndarray):
        return f"an array of {value.dtype}, shape {value.shape}"
    return f"of type {type(value).__name__}"


def error_of(
    output: npt.NDArray[np.float32] | Tokens, inputs: Inputs, expected: F64, least: float = 0.0
) -> float:
    """The error of an output, to be compared with `reference.tolerance`; inf if it is not finite or ill-shaped.

    `expected` is the work's own output, which is where an engine's tokens begin; `least` as in `relative_error`.
    """
    if not isinstance(output, Tokens):
        return reference.relative_error(output, expected, least)
    if not isinstance(inputs, ModelInputs):
        raise AssertionError(f"{type(inputs).__name__} is no ModelInputs")
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
