"""vLLM's own server in vLLM's environment, with the model of a work, until it is ended.

    python -m membound.backends.vllm_engine.serve SETTINGS.json

Run by `membound load`. What decides its speed is read from vLLM's own configuration before it serves. vLLM starts other
processes, which import this module anew and look at every module that is loaded: the kernels, which make the model's files,
stay in a process of their own.
"""

from __future__ import annotations

import os
import runpy
import socket
import subprocess
import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

from membound.backends.serving import KEY, Settings
from membound.backends.vllm_engine.installed import BLOCK_TOKENS, DTYPES, device_kind, versions
from membound.kernels.model import Model
from membound.kernels.work import Step, parse

SERVER = "vllm.entrypoints.openai.api_server"
WRITE = "--write-the-model"
TOKENIZERS = ("tokenizer.json", "tokenizer.model")


def main(path: Path) -> None:
    """Serve what the settings say."""
    settings = Settings.read(path)
    os.environ["VLLM_API_KEY"] = os.environ.pop(KEY)
    folder = _folder(settings)
    kind = device_kind()
    os.environ["VLLM_LOGGING_LEVEL"] = "INFO"
    import_module("vllm.engine.arg_utils")  # takes seconds, in which the model is written
    port = _free_port()
    arguments = [*_arguments(settings, folder(), kind), "--host", "127.0.0.1", "--port", str(port)]
    settings.tell(port, _facts(arguments, settings, kind))
    sys.argv = [SERVER, *arguments]
    runpy.run_module(SERVER, run_name="__main__")


def _arguments(settings: Settings, folder: str, kind: str) -> list[str]:
    """Those of vLLM's server; the user's options come last, so that they hold."""
    work = _step(settings)
    arguments = {
        "model": folder,
        "served-model-name": settings.name,
        "dtype": DTYPES[work.weight],
        "max-model-len": str(settings.longest),
        "max-num-seqs": str(settings.sequences),
        "seed": "0",
    }
    flags = ["disable-uvicorn-access-log"]
    flags += ["enable-prefix-caching" if settings.prefix_cache else "no-enable-prefix-caching"]
    if kind == "cpu":
        arguments["distributed-executor-backend"] = "uni"
        arguments["kv-cache-memory-bytes"] = str(_cache_bytes(work.shape, work.weight, settings))
        flags.append("enforce-eager")
    given = [f"--{name}" for name in flags]
    given += [text for name, value in arguments.items() for text in (f"--{name}", value)]
    return given + [text for name, value in settings.options.items() for text in (f"--{name}", value) if text]


def _step(settings: Settings) -> Step:
    work = parse(settings.spec)
    if not isinstance(work, Step):
        raise SystemExit(f"{settings.spec} is no step")
    return work


def _folder(settings: Settings) -> Callable[[], str]:
    """The model's own folder where it has a tokenizer, else one that a process writes from now on, which the call waits for.

    Raises SystemExit where that fails.
    """
    work = _step(settings)
    own = Path(work.shape.folder) if work.shape.folder else None
    if own is not None and not work.layers and any((own / name).is_file() for name in TOKENIZERS):
        there = str(own.resolve())
        return lambda: there
    path = Path(settings.folder) / "settings.json"
    writing = subprocess.Popen([sys.executable, "-P", "-m", __spec__.name, str(path), WRITE])

    def written() -> str:
        if writing.wait():
            raise SystemExit(f"the model of {settings.spec} could not be written")
        return str(_written(settings))

    return written


def _written(settings: Settings) -> Path:
    return Path(settings.folder) / "model"


def write_model(path: Path) -> None:
    """Write the model's files into the scratch folder."""
    from membound.kernels.export import export_model
    from membound.kernels.inputs import ModelInputs
    from membound.kernels.seeded import make_inputs

    settings = Settings.read(path)
    inputs = make_inputs(parse(settings.spec), settings.seed)
    if not isinstance(inputs, ModelInputs):
        raise SystemExit(f"{settings.spec} has no model")
    export_model(inputs, _written(settings))


def _cache_bytes(model: Model, weight: str, settings: Settings) -> int:
    """Room for all sequences at their longest: a cache that is too small would be measured instead of the engine."""
    blocks = settings.sequences * -(-settings.longest // BLOCK_TOKENS) + 2
    return blocks * BLOCK_TOKENS * model.layers * 2 * model.kv_dim * (4 if weight == "f32" else 2)


def _free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


def _facts(arguments: list[str], settings: Settings, kind: str) -> dict[str, Any]:
    """What decides the engine's speed, as vLLM itself has understood its arguments."""
    from vllm.engine.arg_utils import AsyncEngineArgs
    from vllm.usage.usage_lib import UsageContext
    from vllm.utils.argparse_utils import FlexibleArgumentParser

    parser = AsyncEngineArgs.add_cli_args(FlexibleArgumentParser())
    known, _ = parser.parse_known_args(arguments)
    config = AsyncEngineArgs.from_cli_args(known).create_engine_config(UsageContext.OPENAI_API_SERVER)
    scheduler, cache, model = config.scheduler_config, config.cache_config, config.model_config
    return {
        "device": kind,
        "dtype": str(model.dtype).removeprefix("torch."),
        "cache_dtype": str(cache.cache_dtype),
        "block_size": cache.block_size,
        "prefix_cache": bool(cache.enable_prefix_caching),
        "max_num_seqs": scheduler.max_num_seqs,
        "max_num_batched_tokens": scheduler.max_num_batched_tokens,
        "chunked_prefill": bool(scheduler.enable_chunked_prefill),
        "max_model_len": model.max_model_len,
        "graphs": not model.enforce_eager,
        "threads": settings.threads,
        "versions": versions(),
    }


if __name__ == "__main__":
    (write_model if WRITE in sys.argv else main)(Path(sys.argv[1]))
