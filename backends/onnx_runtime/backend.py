"""``onnxruntime:cpu`` and ``onnxruntime:<provider>``: ONNX Runtime on any of its execution providers.

>>> backend = OnnxRuntime(); backend.open("cpu", threads=2)
>>> from membound.kernels.seeded import make_inputs
>>> backend.prepare(work, make_inputs(work, seed=1, slots=4)); backend.launch(0); backend.output()

A matrix is a session of its own, with memory of its own; attention and whole models are one session.
Graphs are built here, node by node; ``onnxruntime:cpu+export`` runs a model as torch exports it instead.
Everything is bound before the first launch, and the cache is bound as past and present at once, so that
GroupQueryAttention appends in place. A provider that is not the one asked for is refused.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from membound.backends.api import Backend, Device, cpu_name
from membound.backends.background import Background
from membound.backends.onnx_runtime.device import EXPORT, EXPORT_REMEDY, OPENVINO_KIND, find, providers
from membound.backends.onnx_runtime.session import (
    CPU,
    create_file_session,
    create_session,
    refusals,
    refused,
    runtime,
)
from membound.backends.onnx_runtime.supported import attention_reason, experts_reason, model_reason
from membound.backends.running_threads import check_threads
from membound.errors import BackendUnavailable, FallbackRefused, Unsupported
from membound.kernels.inputs import AttentionInputs, ExpertInputs, LinearInputs, ModelInputs, OnnxInputs
from membound.kernels.routing import OWN_ROUTES, experts_read, route
from membound.kernels.work import (
    DecodeAttention,
    LatentAttention,
    Linear,
    OnnxStep,
    Prefill,
    RoutedExperts,
    Step,
)

if TYPE_CHECKING:
    from membound.backends.onnx_runtime.graph import Graph
    from membound.backends.onnx_runtime.user_file import BoundFile
    from membound.kernels.inputs import Inputs
    from membound.kernels.weights.formats import F32
    from membound.kernels.work import Work

NOT_MULTIPLIED = ("q4_k", "fp8g128", "fp8b128", "mxfp4", "stored")
"""Weight formats that could only be widened to four times their bytes, and those of files, which no graph is built for."""
# A product of 67 MFLOP a thread, milliseconds: its rows, which are no fewer than its columns, are what threads share.
COUNTED_ROWS, COUNTED_WIDTH = 256, 512
HOST = ("cpu", OPENVINO_KIND)
"""Providers that compute on the processor, OpenVINO's by default, with as many threads as they are told."""
# Where a provider keeps bound inputs and outputs; all others use host memory.
MEMORY = {"cann": "cann", "cuda": "cuda", "dml": "dml", "tensorrt": "cuda", "webgpu": "webgpu"}


class OnnxRuntime(Backend):
    """Linear, decode attention, decode step and prompt, and users' own files, as far as ONNX Runtime has kernels for the formats."""

    _threads = 1
    _kind = "cpu"
    _provider = CPU
    _index = 0
    _exports = False
    _extra_bytes = 0
    _asked_bytes = 0

    def __init__(self) -> None:
        self._launches: list[tuple[Any, Any]] = []
        self._values: list[Any] = []
        self._settings: dict[str, Any] = {}
        self._shape: tuple[int, ...] = ()
        self._y: Any = None
        self._file: BoundFile | None = None
        self._logits: list[Any] = []
        self._chosen = 0
        self._refusals: tuple[type[Exception], ...] = ()

    @classmethod
    def devices(cls) -> Sequence[str]:
        """The providers that this build lists, ``cpu`` first. Each with ``+export`` opens where it is named."""
        return list(providers())

    def open(self, device: str, threads: int) -> Device:
        """Take ``cpu`` or another provider, with an index as in ``cuda:0``, ``+export`` behind it or not.

        Raises BackendUnavailable.
        """
        wanted = find(device)
        self._kind, self._provider, self._index = wanted.kind, wanted.provider, wanted.index
        self._threads = threads
        if self._kind != "cpu":
            self._probe()
        if self._kind in HOST:
            self._count_threads()
        self._exports = wanted.exports  # not before the probe, which is no model
        name = cpu_name() if self._kind in HOST else self._provider
        return Device(f"onnxruntime:{device}", name, threads, wanted.versions())

    def _count_threads(self) -> None:
        """Raises BackendUnavailable if fewer threads work on a product than a session was given."""
        from membound.backends.onnx_runtime.graph import linear_graph
        from membound.kernels.weights.formats import Weight

        x = np.ones((COUNTED_ROWS * self._threads, COUNTED_WIDTH), np.float32)
        weight = Weight("f32", COUNTED_ROWS, COUNTED_WIDTH, x[:COUNTED_ROWS])
        session = create_session(
            linear_graph(weight, "float", len(x)), self._provider, self._index, self._threads
        )
        check_threads("ONNX Runtime", self._threads, lambda: session.run(None, {"x": x}))

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
        if self._exports and not isinstance(work, Step | Prefill):
            return f"+{EXPORT} is for whole models; other works go without it"
        if isinstance(work, LatentAttention):
            return "ONNX Runtime has no operator of latent attention"
        if isinstance(work, OnnxStep):
            return None
        if isinstance(work, DecodeAttention) and work.page:
            return "ONNX Runtime has no paged attention on CPUs"
        if not isinstance(work, DecodeAttention) and work.weight == "bf16":
            return "ONNX Runtime has no bfloat16 matmul on CPUs"
        if not isinstance(work, DecodeAttention) and work.weight in NOT_MULTIPLIED:
            return f"ONNX Runtime has no matmul over {work.weight} weights on CPUs"
        if (isinstance(work, RoutedExperts) or (isinstance(work, Step | Prefill) and work.distinct)) and (
            reason := experts_reason(work, self._kind)
        ):
            return reason
        if isinstance(work, DecodeAttention):
            return attention_reason(work, self._kind)
        return model_reason(work, self._kind, self._exports) if isinstance(work, Step | Prefill) else None

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
        elif isinstance(inputs, OnnxInputs):
            self._prepare_file(inputs)
        elif isinstance(inputs, ExpertInputs):
            self._prepare_experts(inputs)
        else:
            self._prepare_model(inputs)
        self._refusals = refusals()

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
        from membound.backends.onnx_runtime.graph import attention_graph, with_newest

        work = inputs.work
        if not isinstance(work, DecodeAttention):
            raise AssertionError(f"{type(work).__name__} is no DecodeAttention")
        session = self._session(attention_graph(work))
        self._extra_bytes = _widened_bytes(work)
        rows = (work.batch, work.queries, work.q_heads * work.head_dim)
        q, self._y = self._value(inputs.q.reshape(rows)), self._value(np.zeros(rows, np.float32))
        self._shape = inputs.q.shape
        for slot in range(inputs.slots):
            cache = with_newest(work, inputs, slot)
            newest = {
                name: self._value(
                    values[:, :, -work.queries :].swapaxes(1, 2).reshape(work.batch, work.queries, -1)
                )
                for name, values in zip("kv", cache, strict=True)
            }
            past, present = self._cache(
                {f"past_{n}.0": values for n, values in zip("kv", cache, strict=True)}
            )
            self._bind(session, {"q": q, **newest, **past}, {"y": self._y, **present})

    def _prepare_experts(self, inputs: ExpertInputs) -> None:
        from membound.backends.onnx_runtime.experts import experts_graph

        work = inputs.work
        x, self._y = self._value(inputs.x), self._value(np.zeros((work.batch, work.hidden), np.float32))
        logits = self._value(np.zeros((work.batch, work.count), np.float32))
        self._logits = [logits]
        self._shape, self._chosen = (work.batch, work.hidden), work.chosen
        sessions = []
        for weight_set in range(inputs.weight_sets):
            graph = experts_graph(inputs, weight_set)
            self._extra_bytes = graph.extra_bytes
            sessions.append(self._session(graph))
        for slot in range(inputs.slots):
            router = self._value(np.ascontiguousarray(inputs.router(slot).T))
            session = sessions[inputs.set_of(slot)]
            self._bind(session, {"x": x, "router": router}, {"y": self._y, "logits": logits})

    def _prepare_model(self, inputs: ModelInputs) -> None:
        from membound.backends.onnx_runtime.caches import past_arrays
        from membound.backends.onnx_runtime.decoder import chosen_of, output_shape, router_room

        graph = self._model_graph(inputs)
        session = self._session(graph)
        self._extra_bytes = graph.extra_bytes + _widened_bytes(inputs.work)
        del graph
        past, present = self._cache(past_arrays(inputs))
        self._shape = output_shape(inputs)
        self._y = self._value(np.zeros(self._shape, np.float32))
        logits = {name: self._value(room) for name, room in router_room(inputs).items()}
        self._logits, self._chosen = list(logits.values()), chosen_of(inputs)
        if self._logits and inputs.plan is None:
            self._settings = self._settings | OWN_ROUTES
        self._bind(session, {"x": self._value(inputs.x), **past}, {"y": self._y, **present, **logits})

    def _prepare_file(self, inputs: OnnxInputs) -> None:
        """A session of the file itself."""
        from membound.backends.onnx_runtime.user_file import BoundFile

        work = inputs.work
        session = create_file_session(work.file, self._provider, self._index, self._threads)
        self._extra_bytes = work.bill.copied_bytes + _widened_bytes(work)
        if self._kind == "cpu":  # its products are of float32 alone: matrices are widened as they are loaded
            self._extra_bytes += work.bill.float16_bytes
        self._settings = {"graph": "file"}
        self._file = BoundFile(inputs, session, MEMORY.get(self._kind, "cpu"), self._index)
        self._launches.append((BoundFile.run, self._file))

    def _model_graph(self, inputs: ModelInputs) -> Graph:
        """The whole model, built node by node or exported."""
        if not self._exports:
            from membound.backends.onnx_runtime.decoder import decoder_graph

            self._settings = {"graph": "built"}
            return decoder_graph(inputs)
        try:
            from membound.backends.onnx_runtime.export import exported_graph
        except ImportError as error:
            raise Unsupported(f"exporting a model failed: {error} ({EXPORT_REMEDY})") from error
        self._settings = {"graph": "exported"}
        return exported_graph(inputs)

    def _cache(self, arrays: dict[str, npt.NDArray[Any]]) -> tuple[dict[str, Any], dict[str, Any]]:
        """Bind the same memory as past and as present, so that nothing is copied."""
        past = {name: self._value(values) for name, values in arrays.items()}
        return past, {name.replace("past", "present"): value for name, value in past.items()}

    def _value(self, array: npt.NDArray[Any]) -> Any:
        """The array in the provider's memory; in host memory it is not copied."""
        value = runtime().OrtValue.ortvalue_from_numpy(
            np.ascontiguousarray(array), MEMORY.get(self._kind, "cpu"), self._index
        )
        self._values.append(value)
        return value

    def _session(self, graph: Graph) -> Any:
        self._settings = self._settings | {"graph_nodes": graph.node_count}
        return create_session(graph, self._provider, self._index, self._threads)

    def _bind(self, session: Any, inputs: dict[str, Any], outputs: dict[str, Any]) -> None:
        binding = session.io_binding()
        for name, value in inputs.items():
            binding.bind_ortvalue_input(name, value)
        for name, value in outputs.items():
            binding.bind_ortvalue_output(name, value)
        self._launches.append((session.run_with_iobinding, binding))

    def launch(self, slot: int) -> None:
        """Run the session of that slot and return when it is done.

        Raises Unsupported in the first one: some operators look at their shapes only when they run.
        """
        run, binding = self._launches[slot]
        try:
            run(binding)
        except self._refusals as error:
            raise refused(error, self._provider) from error
        self._refusals = ()

    def sync(self) -> None:
        """Nothing runs behind the call: ONNX Runtime waits for its provider at the end of a run."""

    def output(self) -> F32:
        """A copy of the last launch's result."""
        if self._file is not None:
            return self._file.logits()
        y: F32 = np.array(self._y.numpy(), np.float32)
        return y.reshape(self._shape)

    def stored_bytes(self) -> int | None:
        """Bytes with widened weights (f16, int8 with float activations), int4 scales and caches (f16)."""
        return self._asked_bytes + self._extra_bytes if self._extra_bytes else None

    def settings(self) -> dict[str, Any]:
        """The operators of its graph; of a model, where that comes from: ``built`` here, or ``exported`` by torch.

        Of experts, how many different ones the logits of the last launch choose.
        """
        if not self._logits:
            return self._settings
        choices = [route(logits.numpy(), self._chosen)[0] for logits in self._logits]
        return self._settings | {"experts_read": experts_read(choices)}

    def close(self) -> None:
        """Drop sessions and memory."""
        self._launches, self._values, self._y, self._logits = [], [], None, []
        self._file = None
        self._extra_bytes, self._settings = 0, {}


def _widened_bytes(work: DecodeAttention | Step | Prefill | OnnxStep) -> int:
    """Bytes of the float32 copy of an f16 cache, which stays float16 in memory.

    GroupQueryAttention makes it a head at a time, in every launch (ONNX Runtime 1.31, seen in its memory).
    Counted once a KV head; each query head of a group makes a copy of its own.
    """
    return 2 * work.traffic.kv_read_bytes if work.kv == "f16" else 0
