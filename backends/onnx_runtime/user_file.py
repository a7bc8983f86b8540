"""A user's own file in a session: its inputs bound once, caches in place where its operators append there.

>>> bound = BoundFile(inputs, session, memory="cpu", index=0)
>>> bound.run(); bound.logits().shape
(1, 128256)

A cache that GroupQueryAttention or TensorScatter appends to is bound as past and as present, with a place for the new token, as
onnxruntime-genai binds it. Other outputs ONNX Runtime allocates in the first run and writes again in later ones.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from membound.backends.onnx_runtime.session import runtime
from membound.kernels.inputs import OnnxInputs
from membound.kernels.onnx_file.decoder import Cache
from membound.kernels.onnx_file.numbers import Array
from membound.kernels.weights.formats import F32, from_bf16

BFLOAT16 = 16
"""onnx.TensorProto.BFLOAT16."""


class BoundFile:
    """A session with everything bound. `memory` and `index` say where the provider keeps inputs and outputs."""

    def __init__(self, inputs: OnnxInputs, session: Any, memory: str, index: int) -> None:
        decoder, self._place = inputs.decoder, (memory, index)
        self._session, self._binding = session, session.io_binding()
        self._values: list[Any] = []
        self._batch = inputs.work.batch
        for name, values in inputs.small().items():
            self._binding.bind_ortvalue_input(name, self._kept(values))
        names: list[str] = []
        for number, cache in enumerate(decoder.caches):
            value = self._kept(_with_room(cache, inputs.cache(number)), cache.format == "bf16")
            self._binding.bind_ortvalue_input(cache.name, value)
            if cache.present:
                self._binding.bind_ortvalue_output(cache.present, value)
                names.append(cache.present)
        others = [one.name for one in decoder.file.graph.outputs if one.name not in names]
        for name in others:
            self._binding.bind_output(name, memory, index)
        names += others
        self._logits = names.index(decoder.logits)

    def run(self) -> None:
        """One step; returns when it is done."""
        self._session.run_with_iobinding(self._binding)

    def logits(self) -> F32:
        """[batch, vocab] of the last token of each sequence, as float32."""
        value = self._binding.get_outputs()[self._logits]
        values = np.asarray(value.numpy())
        wide = from_bf16(values) if values.dtype == np.uint16 else values.astype(np.float32)
        last: F32 = wide.reshape(self._batch, -1, wide.shape[-1])[:, -1].copy()
        return last

    def _kept(self, values: Array, is_bfloat16: bool = False) -> Any:
        """The array in the provider's memory."""
        array = np.ascontiguousarray(values)
        make = runtime().OrtValue
        if is_bfloat16:
            value = make.ortvalue_from_numpy_with_onnx_type(array, BFLOAT16)
        else:
            value = make.ortvalue_from_numpy(array, *self._place)
        self._values.append(value)
        return value


def _with_room(cache: Cache, values: Array) -> Array:
    """A cache with a place behind its tokens where the operator writes the new one there."""
    if not cache.present or cache.capacity:
        return values
    room = np.zeros_like(np.take(values, [0], cache.axis))
    return np.concatenate([values, room], cache.axis)
