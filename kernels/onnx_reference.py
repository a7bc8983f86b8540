"""What a user's own ONNX file computes, in float64.

>>> y = onnx_step(inputs)        # [batch, vocab]
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from membound.kernels.inputs import OnnxInputs
from membound.kernels.onnx_file.count import walk_step

F64 = npt.NDArray[np.float64]


def onnx_step(inputs: OnnxInputs) -> F64:
    """Logits [batch, vocab] of the last token of each sequence, by the float64 walk through the file's operators."""
    work, decoder = inputs.work, inputs.decoder
    found: F64 = walk_step(decoder, work.batch, work.context, inputs.seed).outputs[decoder.logits]
    return found.reshape(work.batch, -1, found.shape[-1])[:, -1]
