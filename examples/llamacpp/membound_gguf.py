"""The server of `membound_llamacpp`: llama.cpp set up for a work, with its own weights in a GGUF file."""

import tempfile
from pathlib import Path

import xllamacpp

from membound.backends.llamacpp.gguf_file import model_refusal, write_gguf

SPARE_TOKENS = 32
QUIET = -1


def unsupported(work):
    """None, or what keeps the server from running the work as it stands."""
    if work.kind not in ("step", "prefill"):
        return "an engine runs whole steps and prompts only"
    if work.kind == "step" and work.cache != "prompt":
        return "an engine holds only what it computed itself: ask for cache=prompt"
    if work.batch > 1:
        return "requests of one sequence only"
    return model_refusal(work)


def serve(inputs, threads):
    """llama.cpp's server with the model and for the prompt of `inputs`, the cache in the format of the work."""
    with tempfile.TemporaryDirectory() as folder:  # the server maps the file, so the name may go
        context = inputs.tokens.shape[1] + SPARE_TOKENS
        params = _params(inputs.work.kv, context, threads)
        params.model.path = str(write_gguf(Path(folder) / "model.gguf", inputs, context))
        return xllamacpp.Server(params)


def _params(kv, context, threads):
    params = xllamacpp.CommonParams()
    params.n_ctx, params.n_parallel, params.n_batch, params.n_ubatch = context, 1, 512, 512
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = threads
    params.cache_type_k = params.cache_type_v = getattr(xllamacpp.ggml_type, f"GGML_TYPE_{kv.upper()}")
    # flash attention multiplies a float32 cache in float16
    kind = "DISABLED" if kv == "f32" else "ENABLED"
    params.flash_attn_type = getattr(xllamacpp.llama_flash_attn_type, f"LLAMA_FLASH_ATTN_TYPE_{kind}")
    params.warmup, params.verbosity = False, QUIET
    return params
