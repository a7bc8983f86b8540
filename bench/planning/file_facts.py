"""What an ONNX file is as a decoder, and what a step of it streams: `membound list --model model.onnx`.

>>> FileFacts.of("model.onnx").as_json()["layers"]
16
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from membound.kernels.onnx_step import OnnxStep
from membound.kernels.operations import SpecError
from membound.results.wording import amount

SUFFIX = ".onnx"
CONTEXTS = (1024, 32768)


@dataclass(frozen=True, slots=True)
class FileFacts:
    """A file's steps at batch 1, one for each of `CONTEXTS` that it takes; none where it cannot be run, and why."""

    model: str
    steps: tuple[OnnxStep, ...]
    not_run: str

    @classmethod
    def of(cls, model: str) -> FileFacts:
        """What the file says of itself."""
        steps, not_run = [], ""
        for context in CONTEXTS:
            try:
                steps.append(OnnxStep(model, 1, context))
            except SpecError as error:
                not_run = not_run or str(error)
        return cls(model, tuple(steps), "" if steps else not_run)

    def as_json(self) -> dict[str, Any]:
        """Bytes, and the formats; only why it is not run where it is not."""
        if not self.steps:
            return {"model": self.model, "not_run": self.not_run}
        bill = self.steps[0].bill
        return {
            "model": self.model,
            "content": bill.content,
            "resident_bytes": bill.resident_bytes,
            "streamed_bytes": bill.weights_bytes + bill.scales_bytes,
            "formats": {"weight": bill.weight, "kv": bill.kv, "act": bill.act},
            "layers": bill.layers,
            "vocab": bill.vocab,
            "cache_bytes": {str(step.context): step.bill.kv_read_bytes for step in self.steps},
            "routed": bill.routed,
            "not_run": "",
        }

    def lines(self) -> Iterator[str]:
        """The same for people."""
        if not self.steps:
            yield f"not run here: {self.not_run}"
            return
        bill = self.steps[0].bill
        formats = f"weights mostly in {bill.weight}, a cache in {bill.kv}, activations as {bill.act}"
        yield f"{self.model}: an ONNX decoder of {bill.layers} layers with a cache, {formats}"
        streamed = amount(bill.weights_bytes + bill.scales_bytes, "B")
        chosen = ", of experts those that its router chooses" if bill.routed else ""
        yield f"a decode step streams {streamed} of its {amount(bill.resident_bytes, 'B')} at batch 1{chosen}"
        cache = ", ".join(f"{amount(step.bill.kv_read_bytes, 'B')} at {step.context}" for step in self.steps)
        yield f"vocabulary {bill.vocab}; cache of a sequence, by tokens: {cache}"
        yield f"run here: membound run onnx:file={self.model}"
