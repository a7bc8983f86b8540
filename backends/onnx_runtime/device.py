"""What ``onnxruntime:…`` names: a provider of the installed build, its index, and whether models are exported.

>>> find("cuda:1+export")
Wanted(kind='cuda', provider='CUDAExecutionProvider', index=1, exports=True)
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec

from membound.backends.onnx_runtime.session import runtime
from membound.errors import BackendUnavailable

SUFFIX = "ExecutionProvider"
REMOTE = "AzureExecutionProvider"  # sends the work elsewhere
OPENVINO_KIND = "openvino"
EXPORT = "export"
EXPORT_MODULES = ("torch", "onnxscript")
EXPORT_REMEDY = 'pip install "membound[onnx-export]"'
# Builds of ONNX Runtime on PyPI that carry a provider; they replace one another (one import name).
PACKAGES = {
    "cann": "onnxruntime-cann",
    "cuda": "onnxruntime-gpu",
    "migraphx": "onnxruntime-migraphx",
    OPENVINO_KIND: "onnxruntime-openvino",
    "tensorrt": "onnxruntime-gpu",
    "webgpu": "onnxruntime-webgpu",
}


@dataclass(frozen=True, slots=True)
class Wanted:
    """A device as asked for: `kind` is the provider's short name, `index` the number behind it, 0 without."""

    kind: str
    provider: str
    index: int
    exports: bool

    def versions(self) -> dict[str, str]:
        """The packages that decide its speed."""
        used = ("onnxruntime", "onnx", *(EXPORT_MODULES if self.exports else ()))
        return {name: _version(name) for name in used}


def find(device: str) -> Wanted:
    """``cpu``, ``cuda:1``, ``cpu+export``. Raises BackendUnavailable that says what this build has."""
    base, plus, variant = device.partition("+")
    if plus and variant != EXPORT:
        raise BackendUnavailable(f"onnxruntime has no variant {variant!r}; it has: {EXPORT}")
    if plus and (absent := missing()):
        raise BackendUnavailable(f"exporting a model needs {', '.join(absent)}", EXPORT_REMEDY)
    kind, _, index = base.lower().partition(":")
    if index and not index.isdecimal():
        raise BackendUnavailable(f"onnxruntime:{device} has no number after the colon")
    if index and kind == OPENVINO_KIND:
        raise BackendUnavailable(f"onnxruntime:{kind} has no numbered devices: leave out :{index}")
    known = providers()
    if kind not in known:
        package = PACKAGES.get(kind)
        remedy = f"pip uninstall onnxruntime && pip install {package}" if package else ""
        raise BackendUnavailable(
            f"this onnxruntime has no provider for {base!r}; it has: {', '.join(known)}", remedy
        )
    return Wanted(kind, known[kind], int(index or 0), bool(plus))


def providers() -> dict[str, str]:
    """The providers of this build by their short names, ``cpu`` first. Raises BackendUnavailable."""
    found = [p for p in runtime().get_available_providers() if p != REMOTE]
    names = {p.removesuffix(SUFFIX).lower(): p for p in found}
    return dict(sorted(names.items(), key=lambda item: item[0] != "cpu"))


def missing() -> list[str]:
    """What exporting a model needs and is not installed."""
    return [name for name in EXPORT_MODULES if find_spec(name) is None]


def _version(package: str) -> str:
    """Its version; onnxruntime's other builds have other distribution names and the same module."""
    try:
        return version(package)
    except PackageNotFoundError:
        return str(getattr(runtime(), "__version__", "")) if package == "onnxruntime" else ""
