"""A rank whose processor passes for an accelerator: python fake_accelerator_rank.py FD, which `install_ranks` has `Ranks` start."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

import pytest
import torch
from fake_accelerator import FACTS, install

from membound.backends.pytorch import device, limits, rank


def main() -> None:
    """Serve as a rank of `rank.main`."""
    patch = pytest.MonkeyPatch()
    install(patch)
    patch.setattr(rank._Rank, "_on_cpu", property(lambda self: False))
    patch.setattr(torch.accelerator, "set_device_index", lambda index: None)
    patch.setattr(device, "describe", lambda name: FACTS)
    patch.setattr(limits, "QUICK_ARRAY_BYTES", 1 << 20)
    patch.setattr(limits, "LINK_BYTES", 1 << 20)
    patch.setattr(limits, "QUICK_GEMM_SIZE", 64)
    rank.main(sys.argv[1:])


if __name__ == "__main__":
    main()
