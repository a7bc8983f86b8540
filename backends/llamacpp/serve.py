"""llama.cpp's own server (the wheel xllamacpp has it compiled), with the model of a work, until it is ended.

    python -m membound.backends.llamacpp.serve SETTINGS.json

Run by `membound load` in the environment llamacpp-server. An option is a field of llama.cpp's parameters: n_batch=256.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from pathlib import Path
from typing import Any

from membound.backends.llamacpp.gguf_file import model_refusal, write_gguf
from membound.backends.running_threads import check_threads
from membound.backends.serving import KEY, Settings
from membound.errors import BackendUnavailable
from membound.kernels.inputs import ModelInputs
from membound.kernels.seeded import make_inputs
from membound.kernels.work import Step, parse

QUIET = -1
FIRST = list(range(8))
"""Tokens by which threads are counted; every model has as many."""
TURN_S = 0.2
"""A signal is acted on between two waits of this length: the server's own threads never return to Python."""


def main(path: Path) -> None:
    """Serve what the settings say."""
    import xllamacpp

    settings = Settings.read(path)
    params, work = xllamacpp.CommonParams(), parse(settings.spec)
    if not isinstance(work, Step) or (refusal := model_refusal(work)) is not None:
        raise SystemExit(
            f"llama.cpp does not take {settings.spec}: {refusal if isinstance(work, Step) else 'no step'}"
        )
    inputs = make_inputs(work, settings.seed)
    if not isinstance(inputs, ModelInputs):
        raise SystemExit(f"{settings.spec} has no model")
    params.model.path = str(write_gguf(Path(settings.folder) / "model.gguf", inputs, settings.longest))
    _set(params, xllamacpp, settings, work.kv)
    over = threading.Event()
    signal.signal(signal.SIGTERM, lambda number, frame: over.set())
    server = xllamacpp.Server(params)
    _count_threads(server, settings.threads)
    settings.tell(int(server.listening_address.rpartition(":")[2]), _facts(params, xllamacpp, settings, work))
    while not over.wait(TURN_S):
        pass
    del server


def _count_threads(server: Any, threads: int) -> None:
    """Raises SystemExit if fewer compute than were asked for."""
    request = {"prompt": FIRST, "max_tokens": 2, "temperature": 0, "cache_prompt": False}
    try:
        check_threads("llama.cpp", threads, lambda: server.handle_completions(request), caller_waits=True)
    except BackendUnavailable as error:
        raise SystemExit(f"{error.reason}: {error.remedy}") from None


def _set(params: Any, xllamacpp: Any, settings: Settings, kv: str) -> None:
    params.hostnames, params.port = ["127.0.0.1"], 0
    params.api_keys, params.model_alias = [os.environ.pop(KEY)], [settings.name]
    params.n_parallel = settings.sequences
    params.n_ctx = settings.sequences * settings.longest
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = settings.threads
    params.cache_type_k = params.cache_type_v = getattr(xllamacpp.ggml_type, f"GGML_TYPE_{kv.upper()}")
    # flash attention multiplies a float32 cache in float16
    kind = "DISABLED" if kv == "f32" else "ENABLED"
    params.flash_attn_type = getattr(xllamacpp.llama_flash_attn_type, f"LLAMA_FLASH_ATTN_TYPE_{kind}")
    params.endpoint_metrics, params.warmup, params.verbosity = True, True, QUIET
    params.cache_prompt, params.cache_ram_mib = settings.prefix_cache, 0
    for name, value in settings.options.items():
        _set_option(params, name.replace("-", "_"), value)


def _set_option(params: Any, name: str, value: str) -> None:
    """A field by its name, with a value of the kind that it has. Raises SystemExit."""
    if not hasattr(params, name):
        raise SystemExit(f"llama.cpp has no option {name!r}")
    now = getattr(params, name)
    try:
        setattr(
            params, name, value.lower() in ("1", "true", "on") if isinstance(now, bool) else type(now)(value)
        )
    except (TypeError, ValueError):
        raise SystemExit(f"llama.cpp takes no {value!r} as {name}, which is {now!r}") from None


def _facts(params: Any, xllamacpp: Any, settings: Settings, work: Step) -> dict[str, Any]:
    """What decides the engine's speed."""
    return {
        "device": "cpu",
        "dtype": work.weight,
        "cache_dtype": work.kv,
        "block_size": "none: a cache without blocks",
        "prefix_cache": bool(params.cache_prompt),
        "max_num_seqs": params.n_parallel,
        "max_num_batched_tokens": params.n_batch,
        "chunked_prefill": True,
        "max_model_len": params.n_ctx // params.n_parallel,
        "graphs": "unknown",
        "threads": params.cpuparams.n_threads,
        "versions": {"xllamacpp": xllamacpp.__version__},
    }


if __name__ == "__main__":
    main(Path(sys.argv[1]))
