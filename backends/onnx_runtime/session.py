"""Sessions of ONNX Runtime: threads and spinning, weights passed from memory, no fallback.

>>> session = create_session(graph, "CPUExecutionProvider", index=0, threads=2)
>>> session.run_with_iobinding(binding)
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from membound.errors import BackendUnavailable, FallbackRefused, Unsupported
from membound.kernels.onnx_file.attention import ATTENTION
from membound.kernels.onnx_file.experts import EXPERTS
from membound.kernels.onnx_file.norms import NORMS
from membound.kernels.onnx_file.products import PRODUCTS

if TYPE_CHECKING:
    from membound.backends.onnx_runtime.graph import Graph

CPU, OPENVINO = "CPUExecutionProvider", "OpenVINOExecutionProvider"
REMEDY = "pip install onnxruntime onnx"
# Threads spin for the next operator within a launch, which made a 60-layer chain of 4 MB matrices 20 %
# faster, and stop when it ends: by default they use 15 to 20 % of a core for 0.2 s after it, which
# disturbs whatever is measured next. Spinning ends after 50 µs, which cost nothing on an idle machine.
# Pools are private to a session, since the shared one ignores both settings; blocked threads of other
# slots' sessions do no harm.
SESSION = {
    "session.force_spinning_stop": "1",
    "session.intra_op.spin_duration_us": "50",
}

NO_CPU = "session.disable_cpu_ep_fallback"
"""Has a session fail where an operator would be left to the CPU."""
ASSIGNMENTS = "session.record_ep_graph_assignment_info"
"""Has a session remember which provider runs which operator."""
HEAVY = frozenset(name.rpartition(".")[2] for name in (*PRODUCTS, *ATTENTION, *EXPERTS, *NORMS))
"""Operators that read weights or caches."""
TELEMETRY = "ORT_DISABLE_TELEMETRY"
"""With it nothing is sent, and no thread that would send it runs beside what is timed. Read as the module is imported."""


def runtime() -> Any:
    """The onnxruntime module. Raises BackendUnavailable if it or onnx is not installed."""
    os.environ[TELEMETRY] = "1"
    try:
        import onnx  # noqa: F401 - graphs cannot be built without it
        import onnxruntime
    except ImportError as error:
        missing = error.name or "onnxruntime"
        raise BackendUnavailable(f"{missing} cannot be imported: {error}", REMEDY) from error
    return onnxruntime


def create_session(graph: Graph, provider: str, index: int, threads: int) -> Any:
    """A session of `graph` on device `index` of a provider. Raises FallbackRefused, Unsupported."""
    arrays = graph.weights()
    values = [runtime().OrtValue.ortvalue_from_numpy(array) for array in arrays.values()]
    settings = settings_of(provider, index, threads)

    def create(entry: str) -> Any:
        options = _options(threads)
        if provider != CPU:
            options.add_session_config_entry(entry, "1")
        options.add_external_initializers(list(arrays), values)
        session = _create(graph.serialize(), options, provider, settings)
        got = session.get_providers()[0]
        if got != provider:
            raise FallbackRefused(f"asked for {provider}, got {got}")
        return session

    try:
        return create(NO_CPU)
    except FallbackRefused:  # it does not say which operators
        refuse_fallback(create(ASSIGNMENTS), provider, heavy=False)
        raise


def create_file_session(path: str, provider: str, index: int, threads: int) -> Any:
    """A session of a file, whose data files ONNX Runtime finds beside it. Raises FallbackRefused, Unsupported.

    On an accelerator ONNX Runtime leaves what makes shapes and positions to the CPU by design; whatever reads weights or caches
    must be the provider's.
    """
    options = _options(threads)
    if provider != CPU:
        options.add_session_config_entry(ASSIGNMENTS, "1")
    session = _create(path, options, provider, settings_of(provider, index, threads))
    got = session.get_providers()[0]
    if got != provider:
        raise FallbackRefused(f"asked for {provider}, got {got}")
    if provider != CPU:
        refuse_fallback(session, provider)
    return session


def settings_of(provider: str, index: int, threads: int) -> dict[str, Any]:
    """A provider's own settings. OpenVINO's takes all cores unless a number of threads is set, and has no numbered devices."""
    if provider == OPENVINO:
        return {"num_of_threads": str(threads)}
    return {"device_id": index} if index else {}


def refuse_fallback(session: Any, provider: str, heavy: bool = True) -> None:
    """Raises FallbackRefused that names the operators that were left to the CPU, all or those that read weights or caches."""
    left = dict.fromkeys(
        node.op_type
        for part in session.get_provider_graph_assignment_info()
        if part.ep_name == CPU
        for node in part.get_nodes()
        if not heavy or node.op_type in HEAVY
    )
    if left:
        raise FallbackRefused(f"{provider} would leave operators to the CPU: {', '.join(left)}")


def _options(threads: int) -> Any:
    options = runtime().SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.execution_mode = runtime().ExecutionMode.ORT_SEQUENTIAL
    options.log_severity_level = 4  # errors are raised; warnings would only clutter the screen
    for key, value in SESSION.items():
        options.add_session_config_entry(key, value)
    return options


def _create(model: bytes | str, options: Any, provider: str, settings: dict[str, Any]) -> Any:
    """The session; an error of ONNX Runtime becomes one of ours."""
    raised: tuple[type[Exception], ...] = (*refusals(), ValueError)
    try:
        return runtime().InferenceSession(model, options, providers=[(provider, settings)], enable_fallback=0)
    except raised as error:
        raise refused(error, provider) from error


def refusals() -> tuple[type[Exception], ...]:
    """What ONNX Runtime raises for a graph or a shape that it has no kernel for: as it loads the graph, or as it first runs it."""
    from onnxruntime.capi import onnxruntime_pybind11_state

    state: Any = onnxruntime_pybind11_state
    return (
        state.Fail,
        state.InvalidArgument,
        state.InvalidGraph,
        state.NotImplemented,
        state.RuntimeException,
        RuntimeError,  # of a run with bound memory
    )


def refused(error: Exception, provider: str) -> Exception:
    """One of our errors for one of `refusals`."""
    text = (str(error).splitlines() or [type(error).__name__])[0]
    if "bad_alloc" in text or "Failed to allocate memory" in text:
        return MemoryError(text)
    if "explicitly disabled" in text:
        return FallbackRefused(f"{provider} would leave operators to the CPU: {text}")
    return Unsupported(f"ONNX Runtime refuses the graph: {text}")
