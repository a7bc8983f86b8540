"""What every packed model has: a kernel with its arguments, and the logits that it leaves.

A subclass packs weights and buffers and calls `_ready`; then `run()` fills `logits`. packed_model.py, packed_prompt.py and those beside
them have the subclasses.
"""

from __future__ import annotations

from typing import Any

from membound.kernels.weights.formats import F32


class Packed:
    """A model's weights and buffers, ready to run. Subclasses make them and call `_ready`."""

    _kernel: Any
    _arguments: tuple[Any, ...]
    _logits: F32
    _matrix_bytes: int

    def _ready(self, kernel: Any, arguments: tuple[Any, ...], logits: F32, matrix_bytes: int) -> None:
        """`logits`: a view [rows, vocab] of the buffer that the kernel fills."""
        self._kernel, self._arguments = kernel, arguments
        self._logits, self._matrix_bytes = logits, matrix_bytes

    def run(self) -> None:
        """One step, or the whole prompt. What is written to caches and states is written anew each time."""
        self._kernel(*self._arguments)

    @property
    def logits(self) -> F32:
        """[rows, vocab] float32, a copy: of all tokens of a step, of each sequence's last one of a prompt."""
        return self._logits.copy()

    @property
    def matrix_bytes(self) -> int:
        """Packed bytes of all matrices that are read: of experts those of the plan."""
        return self._matrix_bytes
