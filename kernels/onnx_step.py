"""A decode step of a decoder that somebody exported to ONNX, as a work: the file itself is run.

>>> work = OnnxStep("model.onnx", context=1024)
>>> work.spec
'onnx:file=model.onnx,batch=1,context=1024,weight=f32,kv=f32,act=float,content=3f1c0a9be27d'

Bytes and FLOPs are counted from the file (`onnx_file.count`), by what reads each of its tensors.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from membound.kernels.model import ModelError
from membound.kernels.operations import SpecError, Traffic, check_positive, spec_of

if TYPE_CHECKING:  # every process imports this module, few open a file
    from membound.kernels.onnx_file.count import Bill

FILLED_IN = ("weight", "kv", "act", "content")
"""Keys that follow from the file; one that is given must be right."""
EXAMPLE = Path(__file__).parent / "onnx_file" / "example.onnx"
"""A decoder of one layer in ONNX's own operators, with random weights: to try things out with, and to ask backends about."""


@dataclass(frozen=True, slots=True)
class OnnxStep:
    """One token for each of `batch` sequences that hold `context` tokens, through the operators of `file`.

    Input: tokens, or embeddings where the file takes those; output: logits [batch, vocab]. `weight` is the format of most of
    the bytes that are read, `kv` that of the cache, `act` int8 where products are of integers. `content` is what the file is
    known by: a hash of it, and of the sizes of its data files.
    """

    file: str
    batch: int = 1
    context: int = 1024
    weight: str = ""
    kv: str = ""
    act: str = ""
    content: str = ""
    _bill: Bill = field(init=False, repr=False, compare=False)
    kind: ClassVar[str] = "onnx"

    def __post_init__(self) -> None:
        from membound.kernels.onnx_file.count import bill_of
        from membound.kernels.onnx_file.decoder import MOST_PLACES

        check_positive(self, "batch", "context")
        if self.batch * self.context > MOST_PLACES:
            raise SpecError(
                f"onnx: batch={self.batch} times context={self.context} must be at most {MOST_PLACES}"
            )
        try:
            bill = bill_of(Path(self.file), self.batch, self.context)
        except ModelError as error:
            raise SpecError(f"onnx: {error}") from None
        for name in FILLED_IN:
            given, found = getattr(self, name), getattr(bill, name)
            if given and given != found:
                changed = ": it changed since" if name == "content" else ""
                raise SpecError(f"onnx: {name}={given} was asked for, and {self.file} has {found}{changed}")
            object.__setattr__(self, name, found)
        object.__setattr__(self, "_bill", bill)

    @property
    def spec(self) -> str:
        """The text that `parse` turns back into this work."""
        return spec_of(self)

    @property
    def bill(self) -> Bill:
        """What was counted in the file as it was when the work was made."""
        return self._bill

    @property
    def flops(self) -> int:
        """2·m·n·k of every product, attention's over all tokens that are seen."""
        return self._bill.flops

    @property
    def traffic(self) -> Traffic:
        """The tensors of the file that are read, the cache, and the activations of products with weights."""
        bill = self._bill
        return Traffic(
            weights_bytes=bill.weights_bytes,
            scales_bytes=bill.scales_bytes,
            kv_read_bytes=bill.kv_read_bytes,
            kv_written_bytes=bill.kv_written_bytes,
            activations_read_bytes=bill.activations_read_bytes,
            activations_written_bytes=bill.activations_written_bytes,
        )

    @property
    def footprint_bytes(self) -> int:
        """Memory that passes through the caches in a launch."""
        return self.traffic.total_bytes

    @property
    def resident_bytes(self) -> int:
        """Memory that the whole file and its caches take, read or not."""
        return self._bill.resident_bytes + self._bill.kv_read_bytes + self._bill.kv_written_bytes
