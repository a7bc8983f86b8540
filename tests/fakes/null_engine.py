"""An engine to be started that computes nothing: the null server as the program of a `ServedEngine`.

python -m null_engine SETTINGS.json        # options: die=N, fail, once=FILE, silent, deaf, child, shared, told=TEXT
"""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from multiprocessing import shared_memory
from pathlib import Path
from typing import Any

from membound.backends.serving import KEY, MetricNames, ServedEngine, Settings
from membound.bench.serving.null_server import TOKEN, NullServer, Script

ENGINE = ServedEngine(
    name="null",
    program="null_engine",
    environment="none",
    metrics=MetricNames("null:", {}),
    formats=("f32",),
    variables={"PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")])},
)
FACTS = {"device": "none", "dtype": "f32", "max_num_seqs": 3, "threads": 1, "versions": {"null": "1"}}


def main(path: Path) -> None:
    """Serve, and misbehave as the options say."""
    settings = Settings.read(path)
    options = settings.options
    if "fail" in options:
        raise SystemExit("ValueError: no such model")
    if "silent" in options:
        os._exit(4)
    if "once" in options:
        try:
            Path(options["once"]).touch(exist_ok=False)
        except FileExistsError:
            raise SystemExit("ValueError: not again") from None
    if "deaf" in options:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if "child" in options:
        subprocess.Popen(["sleep", "1000"], start_new_session=True)
    kept = shared_memory.SharedMemory(create=True, size=4096) if "shared" in options else None
    print(f"serving {settings.name}, {len(os.environ[KEY])} characters of key", flush=True)
    asyncio.run(serve(settings, int(options.get("die", "0"))))
    del kept


async def serve(settings: Settings, die: int) -> None:
    """Until TERM, or until that number of requests has come."""

    def chosen(prompt: Any, total: int) -> list[int]:
        if die and server.requests > die:
            print("RuntimeError: the engine is dead", flush=True)
            os._exit(3)
        return [TOKEN] * total

    server = NullServer(Script(0.001, 0.001), chosen, settings.name)
    port = await server.open()
    if "told" in settings.options:
        settings.told.write_text(settings.options["told"].replace("PORT", str(port)))
    else:
        settings.tell(port, FACTS)
    await asyncio.get_running_loop().create_future()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
