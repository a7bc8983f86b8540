"""``onnxruntime:cpu`` and ``onnxruntime:<provider>``: ONNX Runtime on any of its execution providers.

>>> backend = OnnxRuntime(); backend.open("cpu", threads=2)
>>> from membound.kernels.inputs import make_inputs
>>> backend.prepare(work, make_inputs(work, seed=1, slots=4)); backend.launch(0); backend.output()

Each matrix is a separate session with separate memory; attention and whole models are one session. Everything is
bound before the first launch. The cache is bound both as past and as present, so that GroupQueryAttention appends in
place. A provider that is not the one asked for is refused.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from membound.backends.api import Backend, Device, cpu_name
from membound.backends.background import Background
from membound.backends.onnx_runtime.session import create_session, runtime
from membound.errors import BackendUnavailable, FallbackRefused, Unsupported
from membound.kernels.inputs import AttentionInputs, LinearInputs, ModelInputs
from membound.kernels.work import DecodeAttention, LatentAttention, Linear, Step

if TYPE_CHECKING:
    from membound.backends.onnx_runtime.graph import Graph
    from membound.kernels.inputs import Inputs
    from membound.kernels.weights.formats import F32
    from membound.kernels.work import Work

SUFFIX = "ExecutionProvider"
REMOTE = "AzureExecutionProvider"  # sends the work elsewhere
EXPORT_REMEDY = 'pip install "membound[onnx-export]"'
EXPORT_MODULES = ("torch", "onnxscript")
# Builds of ONNX Runtime on PyPI with other providers; they replace one another (they have the same import name).
PACKAGES = {
    "cann": "onnxruntime-cann",
    "cuda": "onnxruntime-gpu",
    "migraphx": "onnxruntime-migraphx",
    "openvino": "onnxruntime-openvino",
    "tensorrt": "onnxruntime-gpu",
    "webgpu": "onnxruntime-webgpu",
}
# Where a provider keeps bound inputs and outputs; all others use host memory.
MEMORY = {"cann": "cann", "cuda": "cuda", "dml": "dml", "tensorrt": "cuda", "webgpu": "webgpu"}


class OnnxRuntime(Backend):
    """Linear, decode attention, decode step and prompt, as far as ONNX Runtime has kernels for the formats."""

    _threads = 1
    _kind = "cpu"
    _provider = f"CPU{SUFFIX}"
    _index = 0
    _extra_bytes = 0
    _asked_bytes = 0

    def __init__(self) -> None:
        self._launches: list[tuple[Any, Any]] = []
        self._values: list[Any] = []
        self._shape: tuple[int, ...] = ()
        self._y: Any = None

    @classmethod
    def devices(cls) -> Sequence[str]:
        """The providers that this build lists, ``cpu`` first."""
        names = [p.removesuffix(SUFFIX).lower() for p in runtime().get_available_providers() if p != REMOTE]
        return sorted(names, key=lambda name: name != "cpu")

    def open(self, device: str, threads: int) -> Device:
        """Open ``cpu`` or another provider, with an index as in ``cuda:0``. Raises BackendUnavailable."""
        kind, _, index = device.partition(":")
        if index and not index.isdigit():
            raise BackendUnavailable(f"onnxruntime:{device} has no number after the colon")
        providers = [p for p in runtime().get_available_providers() if p != REMOTE]
        found = [p for p in providers if p.lower() == f"{kind}{SUFFIX}".lower()]
        if not found:
            known = ", ".join(self.devices())
            package = PACKAGES.get(kind.lower())
            remedy = f"pip uninstall onnxruntime && pip install {package}" if package else ""
            raise BackendUnavailable(
                f"this onnxruntime has no provider for {device!r}; it has: {known}", remedy
            )
        self._kind, self._provider, self._index = kind.lower(), found[0], int(index or 0)
        self._threads = threads
        if self._kind != "cpu":
            self._probe()
        versions = {name: _version(name) for name in ("onnxruntime", "onnx")}
        name = cpu_name() if self._kind == "cpu" else self._provider
        return Device(f"onnxruntime:{device}", name, threads, versions)

    def _probe(self) -> None:
        """Multiply once: a provider can be listed and yet lack the libraries that it needs."""
        from membound.kernels.seeded import make_inputs

        work = Linear(8, 8, weight="f32")
        try:
            self.prepare(work, make_inputs(work, seed=1))
            self.launch(0)
        except (FallbackRefused, Unsupported) as error:
            raise BackendUnavailable(f"{self._provider} is listed but does not work: {error}") from error
        finally:
            self.close()

    def supports(self, work: Work) -> str | None:
        """The formats that ONNX Runtime has kernels for."""
        if isinstance(work, LatentAttention):
            return "ONNX Runtime has no operator of latent attention"
        if isinstance(work, DecodeAttention):
            return "ONNX Runtime has no paged attention on CPUs" if work.page else _kv_reason(work.kv)
        if work.weight == "bf16":
            return "ONNX Runtime has no bfloat16 matmul on CPUs"
        if isinstance(work, Linear):
            return None
        missing = [name for name in EXPORT_MODULES if find_spec(name) is None]
        if missing:
            return f"exporting a model needs {', '.join(missing)}: {EXPORT_REMEDY}"
        return _kv_reason(work.kv)

    def prepare(self, work: Work, inputs: Inputs) -> None:
        """Build the sessions and bind their memory. Raises Unsupported, FallbackRefused."""
        if reason := self.supports(work):
            raise Unsupported(reason)
        self.close()
        traffic = work.traffic
        self._asked_bytes = traffic.weights_bytes + traffic.scales_bytes + traffic.kv_read_bytes
        if isinstance(inputs, LinearInputs):
            self._prepare_linear(inputs)
        elif isinstance(inputs, AttentionInputs):
            self._prepare_attention(inputs)
        else:
            self._prepare_model(inputs)

    def _prepare_linear(self, inputs: LinearInputs) -> None:
        from membound.backends.onnx_runtime.graph import linear_graph

        work = inputs.work
        x, self._y = self._value(inputs.x), self._value(np.zeros((work.m, work.n), np.float32))
        self._shape = (work.m, work.n)
        sessions = []
        with Background(self._threads if self._kind == "cpu" else 1) as background:
            for slot in range(inputs.slots):
                graph = linear_graph(inputs.weight(slot), work.act, work.m)
                self._extra_bytes = graph.extra_bytes
                sessions.append(background.submit(partial(self._session, graph)))
        for session in sessions:
            self._bind(session.result(), {"x": x}, {"y": self._y})

    def _prepare_attention(self, inputs: AttentionInputs) -> None:
        from membound.backends.onnx_runtime.graph import attention_graph

        work = inputs.work
        assert isinstance(work, DecodeAttention)
        session = self._session(attention_graph(work))
        rows = (work.batch, 1, work.q_heads * work.head_dim)
        q, self._y = self._value(inputs.q.reshape(rows)), self._value(np.zeros(rows, np.float32))
        self._shape = inputs.q.shape
        for slot in range(inputs.slots):
            cache = inputs.cache(slot)
            newest = {
                name: self._value(np.ascontiguousarray(values[:, :, -1]).reshape(work.batch, 1, -1))
                for name, values in (("k", cache.k), ("v", cache.v))
            }
            past, present = self._cache([(cache.k, cache.v)])
            self._bind(session, {"q": q, **newest, **past}, {"y": self._y, **present})

    def _prepare_model(self, inputs: ModelInputs) -> None:
        try:
            from membound.backends.onnx_runtime.export import cache_tokens, decoder_graph
        except ImportError as error:
            raise Unsupported(f"exporting a model failed: {error} ({EXPORT_REMEDY})") from error

        graph = decoder_graph(inputs)
        session = self._session(graph)
        self._extra_bytes = graph.extra_bytes
        del graph
        model, work = inputs.model, inputs.work
        shape = (work.batch, model.kv_heads, cache_tokens(inputs), model.head_dim)
        caches = []
        for index in range(model.layers):
            k, v = np.zeros(shape, np.float32), np.zeros(shape, np.float32)
            if isinstance(work, Step):
                held = inputs.cache(index)
                k[:, :, :-1], v[:, :, :-1] = held.k, held.v
            caches.append((k, v))
        past, present = self._cache(caches)
        self._shape = (work.batch, model.vocab)
        self._y = self._value(np.zeros(self._shape, np.float32))
        self._bind(session, {"x": self._value(inputs.x), **past}, {"y": self._y, **present})

    def _cache(
        self, layers: Sequence[tuple[npt.NDArray[Any], npt.NDArray[Any]]]
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """Bind the same memory as past and as present, so that nothing is copied."""
        past = {
            f"past_{name}.{index}": self._value(values)
            for index, pair in enumerate(layers)
            for name, values in zip("kv", pair, strict=True)
        }
        return past, {name.replace("past", "present"): value for name, value in past.items()}

    def _value(self, array: npt.NDArray[Any]) -> Any:
        """The array in the provider's memory; in host memory it is not copied."""
        value = runtime().OrtValue.ortvalue_from_numpy(
            np.ascontiguousarray(array), MEMORY.get(self._kind, "cpu"), self._index
        )
        self._values.append(value)
        return value

    def _session(self, graph: Graph) -> Any:
        return create_session(graph, self._provider, self._index, self._threads)

    def _bind(self, session: Any, inputs: dict[str, Any], outputs: dict[str, Any]) -> None:
        binding = session.io_binding()
        for name, value in inputs.items():
            binding.bind_ortvalue_input(name, value)
        for name, value in outputs.items():
            binding.bind_ortvalue_output(name, value)
        self._launches.append((session.run_with_iobinding, binding))

    def launch(self, slot: int) -> None:
        """Run the session of that slot and return when it is done."""
        run, binding = self._launches[slot]
        run(binding)

    def sync(self) -> None:
        """Nothing runs behind the call: ONNX Runtime waits for its provider at the end of a run."""

    def output(self) -> F32:
        """A copy of the last launch's result."""
        y: F32 = np.array(self._y.numpy(), np.float32)
        return y.reshape(self._shape)

    def stored_bytes(self) -> int | None:
        """The bytes with widened weights (f16, int8 with float activations) and widened int4 scales."""
        return self._asked_bytes + self._extra_bytes if self._extra_bytes else None

    def close(self) -> None:
        """Drop sessions and memory."""
        self._launches, self._values, self._y = [], [], None
        self._extra_bytes = 0


def _kv_reason(kv: str) -> str | None:
    return {
        "bf16": "ONNX Runtime has no attention over a bfloat16 cache on CPUs",
        "f16": "attention over a float16 cache is not among the graphs built here",
        "int8": "ONNX Runtime's int8 cache has fixed scales, not one a token and head",
        "fp8": "attention over an fp8 cache is not among the graphs built here",
    }.get(kv)


def _version(package: str) -> str:
    """The version. The builds of ONNX Runtime have different distribution names and the same module."""
    try:
        return version(package)
    except PackageNotFoundError:
        return str(getattr(runtime(), "__version__", "")) if package == "onnxruntime" else ""
