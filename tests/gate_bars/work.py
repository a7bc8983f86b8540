"""A benchmark that starts in milliseconds: copies of 16 MB, as JSON of pytest-benchmark. python work.py FILE SLOWDOWN"""

import json
import sys
import time
from pathlib import Path

WARM, ROUNDS, BYTES = 3, 15, 16 << 20


def main() -> None:
    """Time the copies, each prolonged by that share."""
    file, slowdown = Path(sys.argv[1]), float(sys.argv[2])
    source, times = bytearray(range(256)) * (BYTES // 256), []
    for _ in range(WARM + ROUNDS):
        began = time.perf_counter()
        bytes(source)
        took = time.perf_counter() - began
        end = began + took * (1 + slowdown)
        while time.perf_counter() < end:
            pass
        times.append(time.perf_counter() - began)
    stats = {"data": times[WARM:], "rounds": ROUNDS, "iterations": 1}
    case = {"name": "copy", "fullname": "copy", "stats": stats, "extra_info": {}}
    file.write_text(json.dumps({"machine_info": {}, "benchmarks": [case]}), encoding="utf-8")


if __name__ == "__main__":
    main()
