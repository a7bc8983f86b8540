"""`membound list --model`: what a model is, and whether it is run here or only counted."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gguf_files import F32, fields_of, write_gguf
from quantised_folders import write_folder
from transformers_answers import CASES, routed_folder

from membound.bench import cli
from membound.bench.planning.inventory import Inventory
from membound.kernels.weights.tensor_files import TensorFiles


def listed(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as ended:
        cli.main(["list", *arguments])
    out, err = capsys.readouterr()
    return int(ended.value.code or 0), out, err


def models(capsys: pytest.CaptureFixture[str], *names: str) -> list[dict[str, Any]]:
    status, out, _ = listed(capsys, "--json", *(part for name in names for part in ("--model", name)))
    assert status == 0
    found: list[dict[str, Any]] = json.loads(out)["models"]
    return found


def test_a_mixture_says_what_each_batch_streams(capsys: pytest.CaptureFixture[str]) -> None:
    (one,) = models(capsys, "qwen3-30b-a3b")
    assert one["parameters"] == pytest.approx(30.53e9, rel=1e-3)
    assert one["streamed_parameters"]["1"] == pytest.approx(3.04e9, rel=1e-2)
    assert one["streamed_parameters"]["64"] < one["parameters"]
    assert one["kinds"] == [
        {"layers": 48, "holds": "attention of 32 heads (4 KV) of 128; 8 of 128 experts of 768"}
    ]
    assert one["cache_bytes"]["1024"] == 2 * 48 * 2 * 4 * 128 * 1025
    assert one["not_run"] == ""


def test_a_model_that_is_run_here_says_how(capsys: pytest.CaptureFixture[str]) -> None:
    status, out, _ = listed(capsys, "--model", "llama-3.2-1b", "--model", "deepseek-r1")
    assert status == 0
    first, second = out.split("\n\n")
    assert "run here: membound run step:model=llama-3.2-1b" in first
    assert "a decode step streams, in billions: 1.236\n" in first
    assert "3 layers: latent attention of 128 heads, KV rank 512 + 64; gated MLP of 18432" in second
    assert "run here: membound run step:model=deepseek-v3" in second


def test_a_state_and_an_index_are_told_with_their_bytes(capsys: pytest.CaptureFixture[str]) -> None:
    qwen, nano, indexed = models(capsys, "qwen3-next-80b-a3b", "nemotron-3-nano-30b-a3b", "deepseek-v3.2")
    assert qwen["parameters"] == pytest.approx(79.67e9, rel=1e-3)
    assert qwen["state_bytes"] == 36 * 4 * (32 * 128 * 128 + 3 * 8192)
    assert qwen["kinds"][0]["holds"] == (
        "gated DeltaNet of 32 heads (16 of keys), a state of 128 × 128 each; 10 of 512 experts of 512 and 512 for every token"
    )
    assert qwen["kinds"][1]["holds"].startswith("gated attention of 16 heads (2 KV) of 256; ")
    assert [kind["holds"].partition("; ")[2] for kind in nano["kinds"]][1] == "no MLP"
    assert nano["not_run"] == ""
    assert indexed["state_bytes"] == 0
    assert ", 2048 tokens by an index of 128; " in indexed["kinds"][0]["holds"]
    assert indexed["not_run"] == ""
    _, out, _ = listed(capsys, "--model", "qwen3.5-9b")
    told = " ".join(out.split())
    assert "state of a sequence in float32 at any context: 52.7 MB read and 51.1 MB written each step" in told


def test_published_models_with_windows_are_run(capsys: pytest.CaptureFixture[str]) -> None:
    gemma, smollm = models(capsys, "gemma-3-1b", "smollm3-3b")
    assert gemma["not_run"] == smollm["not_run"] == ""
    assert [kind["holds"] for kind in smollm["kinds"]] == [
        "attention of 16 heads (4 KV) of 128; gated MLP of 11008",
        "attention of 16 heads (4 KV) of 128 without RoPE; gated MLP of 11008",
    ]


def test_a_folder_says_why_it_is_not_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fields = {"model_type": "mixtral", "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 4}
    fields |= {"num_attention_heads": 8, "vocab_size": 300}
    (tmp_path / "config.json").write_text(json.dumps(fields), encoding="utf-8")
    (one,) = models(capsys, str(tmp_path))
    assert one["parameters"] == 4 * (4 * 64 * 64 + 2 * 64 + 8 * (3 * 64 * 96 + 64)) + 2 * 300 * 64 + 64
    assert one["not_run"].startswith(f"model folder {tmp_path} has no model.safetensors")


@pytest.mark.parametrize(
    ("name", "said"),
    [
        (
            "qwen3-30b",
            "unknown model 'qwen3-30b'; nearest: qwen3-32b, qwen3-0.6b, qwen3-8b, or a folder",
        ),
        (
            "nope",
            "unknown model 'nope': it is none of the 77 names in docs/prediction.md, nor a folder with config",
        ),
    ],
)
def test_an_unknown_model_is_one_line(name: str, said: str, capsys: pytest.CaptureFixture[str]) -> None:
    status, out, err = listed(capsys, "--model", name)
    assert (status, out) == (2, "")
    assert err.startswith(f"membound: {said}")
    assert err.count("\n") == 1


def test_stored_quantisation_is_named_with_its_bytes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_folder(tmp_path / "awq", "awq")
    files = TensorFiles(tmp_path / "awq")
    total, table = sum(map(files.nbytes, files.names())), files.nbytes("model.embed_tokens.weight")
    (one,) = models(capsys, str(tmp_path / "awq"))
    assert one["not_run"] == ""
    assert one["stored"] == {
        "title": "AWQ, 4 bits, groups of 32",
        "tensors": len(files.names()),
        "nbytes": total,
        "streamed_bytes": total - table,
        "beside_bytes": 0,
    }
    _, out, _ = listed(capsys, "--model", str(tmp_path / "awq"))
    assert f"stored as AWQ, 4 bits, groups of 32: {len(files.names())} tensors of " in out.replace("\n", " ")
    assert ",weight=stored" in out.replace("\n", "")


def test_a_way_of_storing_that_is_not_run_is_counted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_folder(tmp_path, "fp8_blocks")
    fields = json.loads((tmp_path / "config.json").read_text())
    fields["quantization_config"] = {"quant_method": "mxfp4"}
    (tmp_path / "config.json").write_text(json.dumps(fields))
    (one,) = models(capsys, str(tmp_path))
    assert one["stored"]["title"] == "mxfp4"
    assert "experts in MXFP4 are read of gpt_oss alone" in one["not_run"]


def test_a_file_in_gguf_is_listed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table, norm = np.zeros((70, 128), np.float32), np.ones(128, np.float32)
    tensors = {"token_embd.weight": (F32, table), "output_norm.weight": (F32, norm)}
    path = write_gguf(tmp_path / "m.gguf", fields_of(), tensors)
    (one,) = models(capsys, path)
    assert (one["layers"], one["hidden"], one["vocab"], one["tied"]) == (2, 128, 70, True)
    size = table.nbytes + norm.nbytes
    assert one["stored"] == {
        "title": "GGUF, architecture llama",
        "tensors": 2,
        "nbytes": size,
        "streamed_bytes": size,
        "beside_bytes": 0,
    }


def test_a_folder_with_experts_runs_with_the_routes_of_its_own(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    case = next(one for one in CASES if one["config"]["model_type"] == "qwen3_moe")
    folder = routed_folder(case, tmp_path / "model")
    (one,) = models(capsys, folder)
    assert one["not_run"] == ""
    assert one["kinds"] == [
        {"layers": 4, "holds": "attention of 4 heads (2 KV) of 16; 3 of 8 experts of 32"},
    ]
    assert (
        one["streamed_parameters"]["1"]
        == 4 * (2 * 64 * 48 + 2 * 32 * 48 + 8 * 48 + 3 * 3 * 32 * 48) + 61 * 48
    )
    _, out, _ = listed(capsys, "--model", folder)
    assert f"run here: membound run step:model={folder}" in out.replace("\n", "")
    assert "experts: those that its own router chooses (routes=own), of one row a step: batch=1" in " ".join(
        out.split()
    )
    assert "weight=stored" not in out
    damaged = routed_folder(
        case, tmp_path / "damaged", lambda t: t.pop("model.layers.2.mlp.experts.7.down_proj.weight")
    )
    (one,) = models(capsys, damaged)
    assert "has no tensor model.layers.2.mlp.experts.7.down_proj.weight" in one["not_run"]


def test_the_list_has_parameters_in_all_and_as_a_token_streams_them() -> None:
    known = {one["name"]: one for one in Inventory((), (), "").as_json()["models"]}
    mixture = known["qwen3-30b-a3b"]
    assert mixture["total_parameters"] == pytest.approx(30.53e9, rel=1e-3)
    assert mixture["parameters"] == pytest.approx(3.04e9, rel=2e-3)
    dense = known["llama-3-8b"]
    assert dense["total_parameters"] - dense["parameters"] == 128256 * 4096 + (2 * 32 + 1) * 4096
