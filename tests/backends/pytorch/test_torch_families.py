"""What models compute beyond Llama, on torch: part by part, and whole families against what Transformers gave."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from beyond_llama import BEYOND
from torch_runs import check, opened
from transformers_answers import CASES, dense, folder_of, inputs_of

from membound.backends.pytorch.backend import PyTorch
from membound.kernels.models import MODELS
from membound.kernels.reference import relative_error
from membound.kernels.work import parse


@pytest.mark.parametrize("name", BEYOND)
@pytest.mark.parametrize("kind", ["step:context=37", "prefill:tokens=21"])
def test_what_goes_beyond_llama(name: str, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(MODELS, "variant", BEYOND[name])
    check("cpu", f"{kind},model=variant,batch=2,weight=f32,kv=f32", 6, 1e-5)


@pytest.mark.parametrize(
    "case", [one for one in CASES if dense(one)], ids=lambda one: one["config"]["model_type"]
)
def test_families_of_transformers(case: dict[str, Any], tmp_path: Path) -> None:
    count = len(case["tokens"])
    folder = folder_of(case, tmp_path)
    for kind, rest in (("step", f"context={count - 1},cache=prompt"), ("prefill", f"tokens={count}")):
        inputs = inputs_of(f"{kind}:model={folder},{rest},weight=f32,kv=f32", case)
        backend = opened()
        backend.prepare(inputs.work, inputs)
        backend.launch(0)
        assert relative_error(backend.output()[0], np.array(case["logits"])) < 1e-5


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")  # torch's own, while it compiles
@pytest.mark.skipif(not any(n.endswith("+compile") for n in PyTorch.devices()), reason="needs a C++ compiler")
@pytest.mark.parametrize("name", ["softcap", "window", "norms on both sides"])
def test_what_goes_beyond_llama_is_compiled_too(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(MODELS, "variant", BEYOND[name])
    check("cpu+compile", "step:context=37,model=variant,batch=2,weight=f32,kv=f32", 6, 1e-5)


def test_a_named_kernel_that_bounds_no_scores_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(MODELS, "variant", BEYOND["softcap"])
    work = parse("step:context=37,model=variant,weight=f32,kv=f32")
    assert opened("cpu+sdpa-gqa").supports(work) == "variant asks for softcaps of scores, which it lacks"
