"""What a model chooses by itself, as float64 has it: the experts of a folder's own router, the tokens of an index, layer by layer.

>>> own_routes(inputs)[0].shape                    # [rows, chosen]; of a dense layer [rows, 0]
(1, 8)

Routes of random weights are planned (`route_plan`); those of trained weights are what they are. Which of two nearly equal experts is
taken hangs on rounding, and one that is swapped changes the output by a third: so backends are handed this choice, compute the
router's product and the shares of the chosen all the same, and are compared with the reference, which made it.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
import numpy.typing as npt

from membound.kernels.inputs import ModelInputs
from membound.kernels.parts import Experts
from membound.kernels.prompt import key_of
from membound.kernels.reference import prefill, step
from membound.kernels.weights.layers import I64
from membound.kernels.work import Step


def own_routes(inputs: ModelInputs) -> list[I64]:
    """The experts of each row in each layer; computed once for each key.

    Kept in `inputs`, and in `inputs.folder` if there is one.
    """
    if not inputs.held_routes:
        path = inputs.folder / f"routes-{key_of(inputs)}.npz" if inputs.folder else None
        found = _read(path, inputs.model.layers) if path else None
        if found is None:
            found = _compute(inputs)
            if path:
                _write(path, found)
        inputs.held_routes.extend(found)
    return inputs.held_routes


def index_choice(inputs: ModelInputs) -> list[npt.NDArray[Any]]:
    """The tokens that each layer's attention sees by an index; computed once for each key, and kept, as `own_routes`.

    Of a step their numbers [batch, chosen], of a prompt the packed bits of which token sees which, [batch, tokens, tokens / 8].
    Two tokens of nearly equal scores may be swapped by rounding as well: backends compute the scores and their order, and read these.
    """
    if not inputs.held_choice:
        path = inputs.folder / f"tokens-{key_of(inputs)}.npz" if inputs.folder else None
        found = _read(path, inputs.model.layers) if path else None
        if found is None:
            found = []
            if isinstance(inputs.work, Step):
                step(inputs, selections=found)
            else:
                prefill(inputs, found)
            if path:
                _write(path, found)
        inputs.held_choice.extend(found)
    return inputs.held_choice


def _compute(inputs: ModelInputs) -> list[I64]:
    chosen: list[I64] = []
    step(inputs, chosen)
    of_layers, nothing = iter(chosen), np.zeros((len(inputs.x), 0), np.int64)
    layers = inputs.model.decoder.layers
    return [next(of_layers) if isinstance(layer.mlp, Experts) else nothing for layer in layers]


def _read(path: Path, layers: int) -> list[npt.NDArray[Any]] | None:
    """What another worker wrote; None if there are none, or a power failure tore the file."""
    with suppress(FileNotFoundError, EOFError, BadZipFile, KeyError, ValueError), path.open("rb") as file:
        arrays = np.load(file)
        return [arrays[str(index)] for index in range(layers)]
    return None


def _write(path: Path, choice: Sequence[npt.NDArray[Any]]) -> None:
    """All or nothing, for workers that read at the same time."""
    arrays: dict[str, Any] = {str(index): array for index, array in enumerate(choice)}
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    with scratch.open("wb") as file:
        np.savez(file, **arrays)
    scratch.rename(path)
