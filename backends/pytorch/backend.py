"""PyTorch on the CPU and on every accelerator that torch.accelerator knows: `torch:cpu`, `torch:npu:0`, …

Variants follow a plus sign (`variants.py`): `cpu+compile`, `npu+compile+graph`, `npu+flash`, `npu+offload`.

>>> backend = PyTorch()
>>> backend.open("cpu+compile", threads=2).id
'torch:cpu+compile'
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from membound.backends.api import NO_FILES, Accelerator, Backend, Device, Limit, cpu_name
from membound.backends.background import Background
from membound.backends.pytorch.device import (
    accelerator_kind,
    accelerator_name,
    capture,
    check_device,
    describe,
    import_torch,
    timed_event,
)
from membound.backends.pytorch.variants import KERNELS, Variants, graphs_compiled, offered
from membound.backends.running_threads import check_torch_threads
from membound.errors import BackendUnavailable, Unsupported
from membound.kernels.inputs import AttentionInputs, ExpertInputs, Inputs, LinearInputs, ModelInputs
from membound.kernels.operations import LATENT_VALUE_DIM
from membound.kernels.work import (
    DecodeAttention,
    LatentAttention,
    Step,
    Work,
)

if TYPE_CHECKING:
    import torch

    from membound.backends.pytorch.experts import ExpertLayer
    from membound.backends.pytorch.model import Decoder
    from membound.backends.pytorch.parallel import Parallel

LINK = "host_to_device_pinned"
"""The ceiling of a step whose weights live in host memory."""
NOT_COMPILED = "found no compiled frames"
"""In torch's message where a whole graph was asked for and tracing is switched off."""
NO_KERNEL = ("No available kernel", "No valid execution plans", "No execution plans")
"""In messages that the implementation of SDPA asked for does not take these tensors: torch's own, and those of cuDNN's
frontend on a graph for which it has no kernel (pytorch/pytorch issue 140930, NVIDIA/cudnn-frontend issue 75)."""


class PyTorch(Backend):
    """torch's operators: F.linear, weight-only and dynamic int8, SDPA, and a decoder made of them."""

    def __init__(self) -> None:
        self._device = "cpu"
        self._facts: Accelerator | None = None
        self._variants = Variants()
        self._runs: list[Callable[[], torch.Tensor]] = []
        self._result: torch.Tensor | None = None
        self._stored_bytes: int | None = None
        self._shape: tuple[int, ...] | None = None
        self._experts: list[ExpertLayer] = []
        self._decoder: Decoder | None = None
        self._parallel: Parallel | None = None
        self._last, self._slots_a_set = 0, 1

    @classmethod
    def devices(cls) -> Sequence[str]:
        """The CPU and each accelerator, plain and with variants. Raises BackendUnavailable without torch."""
        torch = import_torch()
        names = ["cpu"]
        if (kind := accelerator_kind()) is not None:
            names += [f"{kind}:{i}" for i in range(torch.accelerator.device_count())]
        return names + [variant for name in names for variant in offered(name)]

    def open(self, device: str, threads: int) -> Device:
        """Open `cpu` or an accelerator, with variants. Raises BackendUnavailable, which lists what there is."""
        torch = import_torch()
        base, *variants = device.split("+")
        self._variants = Variants.parse(variants, on_cpu=base == "cpu")
        torch.set_num_threads(threads)
        self._device = check_device(base)
        self._facts = None if self._on_cpu else describe(self._device)
        name = cpu_name() if self._on_cpu else accelerator_name(self._device)
        if (ranks := self._variants.ranks) > 1:
            from membound.backends.pytorch.parallel import parallel_of

            self._parallel, self._facts = parallel_of(ranks, threads, self._device, self._facts)
            name = name if self._facts is None else f"{ranks} × {name}"
        elif self._on_cpu:  # ranks count theirs
            check_torch_threads("torch")
        return Device(
            id=f"torch:{device}",
            name=name,
            threads=torch.get_num_threads(),
            versions={"torch": str(torch.__version__)},
            accelerator=self._facts,
            memory_ceiling=LINK if self._variants.offload else "read",
        )

    @property
    def _on_cpu(self) -> bool:
        return self._device == "cpu"

    def supports(self, work: Work) -> str | None:
        """None, or the format or operation for which torch has no operator."""
        from membound.backends.pytorch.support import unsupported

        return unsupported(work, self._variants, self._device)

    def prepare(self, work: Work, inputs: Inputs) -> None:
        """Make a callable for each input set; compile it and run it once if asked to. Raises Unsupported.

        A model is compiled one layer at a time: the layers share one graph, as otherwise compiling would take minutes.
        """
        import torch

        self._release()
        if (reason := self.supports(work)) is not None:
            raise Unsupported(reason)
        try:
            self._prepare(inputs)
        except torch.OutOfMemoryError as error:
            raise MemoryError(str(error).partition("\n")[0]) from None

    def _prepare(self, inputs: Inputs) -> None:
        if self._parallel is not None:
            self._prepare_parallel(inputs)
        elif isinstance(inputs, LinearInputs):
            self._prepare_linear(inputs)
        elif isinstance(inputs, AttentionInputs):
            self._prepare_attention(inputs)
        elif isinstance(inputs, ExpertInputs):
            self._prepare_experts(inputs)
        elif isinstance(inputs, ModelInputs):
            self._prepare_model(inputs)
        else:
            raise Unsupported(NO_FILES)
        if self._variants.compiled:
            self._compile()
        if self._variants.form in KERNELS:
            self._try_kernel()
        if self._variants.graph:
            self._runs = [capture(run, self._device) for run in self._runs]

    def _compile(self) -> None:
        """Run all input sets once. Raises BackendUnavailable if nothing was compiled: eager code goes by its own name."""
        before = graphs_compiled()
        try:
            for slot in range(len(self._runs)):
                self.launch(slot)
            self.sync()
        except RuntimeError as error:  # torch may say itself that all of it stayed eager
            if NOT_COMPILED not in str(error):
                raise
        if graphs_compiled() == before:
            raise BackendUnavailable(
                "torch.compile compiles nothing here and leaves the work to eager code",
                "unset TORCH_COMPILE_DISABLE TORCHDYNAMO_DISABLE",
            )

    def _try_kernel(self) -> None:
        """Run the named attention kernel once. Raises Unsupported if SDPA refuses it."""
        try:
            self.launch(0)
            self.sync()
        except RuntimeError as error:
            if not any(text in str(error) for text in NO_KERNEL):
                raise
            raise Unsupported(f"torch's {self._variants.form} attention does not take this work") from None

    def _prepare_linear(self, inputs: LinearInputs) -> None:
        from membound.backends.pytorch.linear import as_tensor, make_linear

        work, stored = inputs.work, 0
        with self._background() as background:
            for slot in range(inputs.slots):
                weight = inputs.weight(slot)
                linear = make_linear([weight], None, work.act, work.m, self._device, background)
                x = as_tensor(inputs.x, "f32").to(self._device, linear.activation)
                self._add(linear.to(self._device), x)
                stored = linear.stored_bytes
        self._note_stored(work, stored)

    def _prepare_attention(self, inputs: AttentionInputs) -> None:
        from membound.backends.pytorch.attention import FORMS, make_cache
        from membound.backends.pytorch.linear import FLOATS, as_tensor

        work, form = inputs.work, FORMS[self._variants.form]
        self._shape = inputs.q.shape
        if isinstance(work, LatentAttention):
            self._shape = (*inputs.q.shape[:2], LATENT_VALUE_DIM)
            self._prepare_latent(inputs, work)
            return
        if work.queries > 1:
            self._prepare_several(inputs, work)
            return
        grouped = (work.batch, work.kv_heads, work.q_heads // work.kv_heads, work.head_dim)
        q = as_tensor(inputs.q, "f32").to(self._device, FLOATS[work.kv]).view(grouped)
        for slot in range(inputs.slots):
            k, v = (t.to(self._device) for t in make_cache(inputs.cache(slot), 0))
            self._add(form, q, k, v)

    def _prepare_several(self, inputs: AttentionInputs, work: DecodeAttention) -> None:
        from membound.backends.pytorch.attention import FORMS, causal_mask, make_cache, several
        from membound.backends.pytorch.linear import FLOATS, as_tensor

        form = several(FORMS[self._variants.form])
        q = as_tensor(inputs.q, "f32").to(self._device, FLOATS[work.kv])
        tokens = work.context + work.queries
        mask = causal_mask(work.queries, work.q_heads // work.kv_heads, tokens).to(self._device)
        for slot in range(inputs.slots):
            k, v = (t.to(self._device) for t in make_cache(inputs.cache(slot), work.queries))
            new = (as_tensor(a, "f32").to(self._device) for a in inputs.new_tokens(slot))
            self._add(form, q, k, v, *new, mask)

    def _prepare_latent(self, inputs: AttentionInputs, work: LatentAttention) -> None:
        from membound.backends.pytorch.attention import latent
        from membound.backends.pytorch.linear import FLOATS, as_tensor

        form = latent(self._variants.form)
        q = as_tensor(inputs.q, "f32").to(self._device, FLOATS[work.kv]).unsqueeze(1)
        for slot in range(inputs.slots):
            self._add(form, q, as_tensor(inputs.cache(slot).k, work.kv).to(self._device))

    def _prepare_experts(self, inputs: ExpertInputs) -> None:
        from membound.backends.pytorch.experts import ExpertLayer
        from membound.backends.pytorch.linear import as_tensor

        work, variants = inputs.work, self._variants
        with self._background() as background:
            self._experts = [
                ExpertLayer(inputs, weight_set, variants.loop, variants.compiled, background)
                for weight_set in range(inputs.weight_sets)
            ]
        x = as_tensor(inputs.x, "f32")
        for slot in range(inputs.slots):
            experts = self._experts[inputs.set_of(slot)]
            self._append(experts.run, x, as_tensor(inputs.router(slot), "f32"))
        self._slots_a_set = work.slots_a_set
        self._note_stored(work, work.distinct * self._experts[0].stored_bytes + work.router_bytes)

    def _prepare_model(self, inputs: ModelInputs) -> None:
        import torch

        from membound.backends.pytorch.linear import as_tensor
        from membound.backends.pytorch.whole_model import decoder_for

        work = inputs.work
        with self._background() as background:
            decoder = decoder_for(inputs, self._variants, self._device, background)
        self._decoder = decoder
        if self._variants.compiled:
            decoder.compile_parts()
        with torch.inference_mode():  # otherwise the first layer alone would get an ordinary tensor
            x = as_tensor(inputs.x, "f32").to(self._device, copy=True)
        if self._variants.offload:
            from membound.backends.pytorch.offload import OffloadedDecoder

            self._append(OffloadedDecoder(decoder, self._device), x)
        else:
            self._append(decoder, x)
        self._note_stored(work, decoder.stored_bytes + work.traffic.kv_read_bytes)

    def _prepare_parallel(self, inputs: Inputs) -> None:
        if self._parallel is None or not isinstance(inputs, ModelInputs) or not isinstance(inputs.work, Step):
            raise AssertionError(f"ranks share no {type(inputs).__name__}")
        stored = self._parallel.prepare(inputs.work, inputs)
        self._note_stored(inputs.work, stored + inputs.work.traffic.kv_read_bytes)

    def _background(self) -> Background:
        """As many threads as torch has, for what it does in one."""
        import torch

        return Background(torch.get_num_threads())

    def _add(self, function: Callable[..., torch.Tensor], *arguments: torch.Tensor) -> None:
        """Add an input set: the function, compiled if asked for, on these arguments."""
        import torch

        if self._variants.compiled:
            # It must be one graph: parts left to the interpreter would be a silent fallback.
            function = torch.compile(function, fullgraph=True, dynamic=False)
        self._append(function, *arguments)

    def _append(self, function: Callable[..., torch.Tensor], *arguments: torch.Tensor) -> None:
        import torch

        self._runs.append(torch.inference_mode()(partial(function, *arguments)))

    def _note_stored(self, work: Work, stored_bytes: int) -> None:
        traffic = work.traffic
        asked = traffic.weights_bytes + traffic.scales_bytes + traffic.kv_read_bytes
        self._stored_bytes = None if stored_bytes == asked else stored_bytes

    def launch(self, slot: int) -> None:
        """Start the work on input set `slot`; accelerators return at once."""
        if self._parallel is not None:
            self._parallel.launch()
            return
        self._result, self._last = self._runs[slot](), slot

    def sync(self) -> None:
        """Wait for the accelerator; the CPU is done when `launch` returns."""
        if self._parallel is not None:
            self._parallel.sync()
        elif not self._on_cpu:
            import torch

            torch.accelerator.synchronize(self._device)

    def mark(self) -> object | None:
        """An event on the accelerator's stream; the CPU has no clock of its own, nor have several accelerators."""
        return None if self._on_cpu or self._parallel is not None else timed_event(self._device)

    def elapsed_s(self, start: object, end: object) -> float:
        """Seconds between two events."""
        import torch

        if not isinstance(start, torch.Event):
            raise AssertionError(f"{type(start).__name__} is no torch.Event")
        if not isinstance(end, torch.Event):
            raise AssertionError(f"{type(end).__name__} is no torch.Event")
        return 1e-3 * start.elapsed_time(end)

    def limits(self, quick: bool) -> Iterator[Limit]:
        """Memory, cache, link and matrix units of an accelerator, which variants would only measure again; the link between ranks."""
        if self._parallel is not None:
            yield from self._parallel.limits(quick)
        elif self._facts is not None and self._variants.plain:
            from membound.backends.pytorch.limits import limits

            yield from limits(self._device, self._facts, quick)

    def output(self) -> npt.NDArray[np.float32]:
        """The last result: [m, n]; [batch, q_heads, head_dim], with several queries behind the batch; [batch, vocab], of a step [batch·queries, vocab]."""
        if self._parallel is not None:
            return self._parallel.output()
        if self._result is None:
            raise AssertionError("output before launch")
        array: npt.NDArray[np.float32] = self._result.float().cpu().numpy()
        return array if self._shape is None else array.reshape(self._shape)

    def stored_bytes(self) -> int | None:
        """The bytes of weights and cache as torch packs them, if these differ from what was asked for."""
        return self._stored_bytes

    def exchanged_bytes(self) -> int:
        """What ranks send each other in a launch."""
        moved = self._parallel.exchanges if self._parallel is not None else None
        return moved.total_bytes if moved is not None else 0

    def helpers(self) -> Sequence[int]:
        """The ranks."""
        return self._parallel.ranks.pids if self._parallel is not None else ()

    def settings(self) -> dict[str, Any]:
        """Of experts, how they run, and how many different ones the last launch took; of ranks, what they exchange."""
        if self._parallel is not None:
            return self._parallel.settings()
        if self._decoder is not None:
            return self._decoder.settings()
        return self._experts[self._last // self._slots_a_set].settings() if self._experts else {}

    def _release(self) -> None:
        self._runs, self._result, self._stored_bytes, self._shape = [], None, None, None
        self._experts, self._decoder = [], None
        if self._variants.compiled and "torch._dynamo" in sys.modules:  # its import takes as long as torch's
            import torch

            torch.compiler.reset()  # graphs of earlier works count towards torch's limit of recompilations

    def close(self) -> None:
        """Drop all tensors, and end the ranks."""
        self._release()
        if self._parallel is not None:
            self._parallel.close()
