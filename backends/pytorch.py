"""PyTorch on the CPU and on every accelerator that torch.accelerator knows: `torch:cpu`, `torch:npu:0`, …

Variants follow a plus sign: `cpu+compile` (torch.compile of the same callable), `cpu+sdpa-gqa` and
`cpu+matmul` (other forms of decode attention than SDPA with grouped query heads, the fastest).

>>> backend = PyTorch()
>>> backend.open("cpu+compile", threads=2).id
'torch:cpu+compile'
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from membound.backends.api import Backend, BackendUnavailable, Device, Unsupported, cpu_name
from membound.kernels.inputs import AttentionInputs, Inputs, LinearInputs, ModelInputs
from membound.kernels.work import DecodeAttention, LatentAttention, Linear, Step, Work

if TYPE_CHECKING:
    import torch

VARIANTS = ("compile", "sdpa-gqa", "matmul")


class PyTorch(Backend):
    """torch's own operators: F.linear, weight-only and dynamic int8, SDPA, and a decoder made of them."""

    def __init__(self) -> None:
        self._device = "cpu"
        self._compile = False
        self._form = "grouped"
        self._runs: list[Callable[[], torch.Tensor]] = []
        self._result: torch.Tensor | None = None
        self._stored_bytes: int | None = None

    @classmethod
    def devices(cls) -> Sequence[str]:
        """The CPU and each accelerator, plain and compiled. Raises BackendUnavailable without torch."""
        torch = _import_torch()
        names = ["cpu"]
        if (kind := _accelerator_kind()) is not None:
            names += [f"{kind}:{i}" for i in range(torch.accelerator.device_count())]
        compiled = [f"{name}+compile" for name in names] if shutil.which(_compiler()) else []
        return names + compiled

    def open(self, device: str, threads: int) -> Device:
        """Take `cpu` or an accelerator, with variants. Raises BackendUnavailable that lists what there is."""
        torch = _import_torch()
        base, *variants = device.split("+")
        self._take_variants(variants)
        torch.set_num_threads(threads)
        self._device = _check_device(base)
        return Device(
            id=f"torch:{device}",
            name=cpu_name() if self._device == "cpu" else _accelerator_name(self._device),
            threads=torch.get_num_threads(),
            versions={"torch": str(torch.__version__)},
        )

    def _take_variants(self, variants: list[str]) -> None:
        for variant in variants:
            if variant not in VARIANTS:
                raise BackendUnavailable(f"unknown variant {variant!r}; known: {', '.join(VARIANTS)}")
        forms = [v for v in variants if v != "compile"]
        if len(forms) > 1 or len(set(variants)) < len(variants):
            raise BackendUnavailable(f"variants {'+'.join(variants)} do not go together")
        self._form = forms[0] if forms else "grouped"
        self._compile = "compile" in variants
        if self._compile and not shutil.which(_compiler()):
            raise BackendUnavailable(
                f"torch.compile needs a C++ compiler, and there is no {_compiler()}",
                "apt-get install g++   # or name another one: export CXX=clang++",
            )

    def supports(self, work: Work) -> str | None:
        """None, or what torch has no operator for."""
        from membound.backends.torch_linear import linear_unsupported

        if isinstance(work, LatentAttention):
            return "torch has no operator of latent attention"
        if not isinstance(work, Linear) and work.kv in ("int8", "fp8"):
            return f"torch has no attention over an {work.kv} cache"
        if isinstance(work, DecodeAttention) and work.page:
            return "torch has no attention over a paged cache"
        if self._form != "grouped" and not isinstance(work, DecodeAttention | Step):
            return f"the variant {self._form} changes decode attention only"
        if self._form == "matmul" and not isinstance(work, Linear) and work.kv in ("bf16", "f16"):
            return f"scores rounded to {work.kv} between matmul and softmax lose more than 1 %"
        if isinstance(work, DecodeAttention):
            return None
        if self._compile and work.act == "int8":
            return "torch.compile cannot trace torch's packed int8 weights"
        widths = [work.k] if isinstance(work, Linear) else [k for _, k in work.shape.layer_matrices.values()]
        reason = linear_unsupported(work.weight, work.act, widths, self._device != "cpu")
        if (
            reason is None
            and not isinstance(work, Linear)
            and work.kv == "bf16"
            and work.weight in ("f32", "f16")
        ):
            return (
                f"torch reads a bf16 cache with bf16 queries: less exact than {work.weight} weights ask for"
            )
        return reason

    def prepare(self, work: Work, inputs: Inputs) -> None:
        """Make one callable an input set, compiled and run once where asked for. Raises Unsupported.

        A model is compiled a layer at a time: all layers share one graph, or compiling would take minutes.
        """
        self._release()
        if (reason := self.supports(work)) is not None:
            raise Unsupported(reason)
        if isinstance(inputs, LinearInputs):
            self._prepare_linear(inputs)
        elif isinstance(inputs, AttentionInputs):
            self._prepare_attention(inputs)
        else:
            self._prepare_model(inputs)
        if self._compile:
            for slot in range(len(self._runs)):
                self.launch(slot)
            self.sync()

    def _prepare_linear(self, inputs: LinearInputs) -> None:
        from membound.backends.torch_linear import as_tensor, make_linear

        work, stored = inputs.work, 0
        for slot in range(inputs.slots):
            linear = make_linear([inputs.weight(slot)], None, work.act, work.m).to(self._device)
            x = as_tensor(inputs.x, "f32").to(self._device, linear.activation)
            self._add(linear, x)
            stored = linear.stored_bytes
        self._note_stored(work, stored)

    def _prepare_attention(self, inputs: AttentionInputs) -> None:
        from membound.backends.torch_attention import FORMS, make_cache
        from membound.backends.torch_linear import FLOATS, as_tensor

        work, form = inputs.work, FORMS[self._form]
        assert isinstance(work, DecodeAttention)
        grouped = (work.batch, work.kv_heads, work.q_heads // work.kv_heads, work.head_dim)
        q = as_tensor(inputs.q, "f32").to(self._device, FLOATS[work.kv]).view(grouped)
        for slot in range(inputs.slots):
            k, v = (t.to(self._device) for t in make_cache(inputs.cache(slot), 0))
            self._add(form, q, k, v)

    def _prepare_model(self, inputs: ModelInputs) -> None:
        import torch

        from membound.backends.torch_attention import FORMS
        from membound.backends.torch_linear import as_tensor, make_linear
        from membound.backends.torch_model import attention_maker, build_decoder

        work = inputs.work
        decoder = build_decoder(
            inputs,
            lambda weights, bias, rows: make_linear(weights, bias, work.act, rows),
            attention_maker(inputs, FORMS[self._form]),
            self._device,
        )
        if self._compile:
            decoder.compile_parts()
        with torch.inference_mode():  # or the first layer's input would differ in kind from the others'
            x = as_tensor(inputs.x, "f32").to(self._device, copy=True)
        self._append(decoder, x)
        self._note_stored(work, decoder.stored_bytes + work.traffic.kv_read_bytes)

    def _add(self, function: Callable[..., torch.Tensor], *arguments: torch.Tensor) -> None:
        """One more input set: the function, compiled where asked for, on these arguments."""
        import torch

        if self._compile:
            # One graph or an error: parts left to the interpreter would be a silent fallback.
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
        self._result = self._runs[slot]()

    def sync(self) -> None:
        """Wait for the accelerator; the CPU is done when `launch` returns."""
        if self._device != "cpu":
            import torch

            torch.accelerator.synchronize(self._device)

    def output(self) -> npt.NDArray[np.float32]:
        """The last result: [m, n]; [batch, q_heads, head_dim]; [batch, vocab]."""
        assert self._result is not None, "output before launch"
        result = self._result.float().cpu()
        if result.ndim == 4:
            result = result.flatten(1, 2)
        array: npt.NDArray[np.float32] = result.numpy()
        return array

    def stored_bytes(self) -> int | None:
        """Weights and cache as torch's packing stores them, where that is not what was asked for."""
        return self._stored_bytes

    def _release(self) -> None:
        self._runs, self._result, self._stored_bytes = [], None, None
        if self._compile:
            import torch

            torch.compiler.reset()  # graphs of earlier works count towards its limit of recompilations

    def close(self) -> None:
        """Drop all tensors."""
        self._release()


def _import_torch() -> Any:
    try:
        import torch
    except ModuleNotFoundError as error:
        if error.name != "torch":
            raise BackendUnavailable(f"torch cannot be imported: {error}") from error
        raise BackendUnavailable("torch is not installed", 'pip install "membound[torch]"') from None
    except (ImportError, OSError) as error:
        raise BackendUnavailable(f"torch cannot be imported: {error}") from error
    return torch


def _compiler() -> str:
    """The C++ compiler that torch.compile would call."""
    return os.environ.get("CXX", "g++")


def _accelerator_kind() -> str | None:
    """The kind of accelerator that this torch drives here: "cuda", "npu", "xpu", …; None without one."""
    import torch

    if not torch.accelerator.is_available():
        return None
    current = torch.accelerator.current_accelerator()
    return None if current is None else current.type


def _check_device(name: str) -> str:
    """The device as torch names it, with its index. Raises BackendUnavailable that lists what there is."""
    import torch

    if name == "cpu":
        return name
    kind, _, index = name.partition(":")
    found = _accelerator_kind()
    count = torch.accelerator.device_count() if found else 0
    here = ["cpu", *(f"{found}:{i}" for i in range(count))]
    device = f"{kind}:{index or 0}"
    if device not in here:
        raise BackendUnavailable(
            f"torch {torch.__version__} has no device {name!r} here; it has: {', '.join(here)}"
        )
    return device


def _accelerator_name(device: str) -> str:
    import torch

    return str(torch.get_device_module(device).get_device_name(device))
