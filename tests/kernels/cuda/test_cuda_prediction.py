"""What is counted in machine code, and what is made of it: on text written for the test, and on kernels."""

from __future__ import annotations

import json
import re

import pytest

from membound.bench.cli import main
from membound.bench.planning import suites
from membound.kernels.cuda import prediction
from membound.kernels.cuda.compile import CompileError, Kernel
from membound.kernels.cuda.device import machine_code as module
from membound.kernels.cuda.device.machine_code import MachineCode, machine_code, parse_sass
from membound.kernels.cuda.machine import A100, B200, H100, H200, L4
from membound.kernels.cuda.matmul.dot import Dot, dot_kernel
from membound.kernels.cuda.matmul.linear import plan_linear
from membound.kernels.cuda.prediction import (
    LATENCY_S,
    SHORTEST_S,
    START_S,
    WHOLE,
    predict,
    predict_copy,
    predictions,
    resident_blocks,
)
from membound.kernels.work import Step, parse

SASS = """
	.section	.nv.info.probe
	.byte	0x04
	//----- nvinfo : EIATTR_REGCOUNT
	.align		4
	.word		index@(probe)
	.word		0x00000040
	//----- nvinfo : EIATTR_FRAME_SIZE
	.word		index@(probe)
	.word		0x00000000
.text.probe:
        /*0000*/                   LDC R1, c[0x0][0x28] ;
        /*0010*/                   LDGSTS.E.BYPASS.LTC256B.128 [R4], desc[UR4][R2.64] ;
.L_x_1:
        /*0020*/                   LDGSTS.E.BYPASS.LTC256B.128 [R4], desc[UR4][R2.64] ;
        /*0030*/                   LDGDEPBAR ;
        /*0040*/                   DEPBAR.LE SB0, 0x5 ;
        /*0050*/                   LDS.128 R8, [R4] ;
        /*0060*/                   LDG.E.128.CONSTANT R12, desc[UR4][R2.64] ;
        /*0070*/                   FFMA R5, R8, R12, R5 ;
        /*0080*/                   HMMA.16816.F32 R16, R8, R12, R16 ;
        /*0090*/              @!P0 BRA `(.L_x_1) ;
        /*00a0*/                   EXIT ;
.L_x_2:
        /*00b0*/                   BRA `(.L_x_2);
        /*00c0*/                   NOP;
//--------------------- .nv.shared.probe --------------------------
.nv.shared.probe:
	.zero		25728
//--------------------- .nv.shared.reserved.0     --------------------------
.nv.shared.reserved.0:
	.zero		0
"""
PROBE = Kernel("probe", lambda: None, (), 128)


@pytest.fixture
def probe(monkeypatch: pytest.MonkeyPatch) -> MachineCode:
    code = parse_sass(SASS)
    monkeypatch.setattr(prediction, "machine_code", lambda kernel, target: code)
    return code


def test_machine_code_is_taken_apart(probe: MachineCode) -> None:
    assert (probe.registers, probe.stack_bytes, probe.shared_bytes) == (64, 0, 25728)
    assert probe.count("LDGSTS") == 2
    (loop,) = probe.loops
    assert [name for name, _ in loop][:2] == ["LDGSTS.E.BYPASS.LTC256B.128", "LDGDEPBAR"]
    assert len(loop) == 8
    with pytest.raises(CompileError, match="shows no REGCOUNT"):
        parse_sass("nothing")


@pytest.mark.parametrize(
    ("registers", "shared", "threads", "blocks"),
    [(64, 25728, 128, 8), (65, 1024, 128, 7), (32, 0, 256, 8), (255, 0, 128, 2), (24, 0, 32, 32), (64, 60000, 128, 3)],
)  # fmt: skip
def test_blocks_fit_by_what_is_scarcest(registers: int, shared: int, threads: int, blocks: int) -> None:
    code = MachineCode((), {}, registers, 0, shared)
    assert resident_blocks(Kernel("probe", lambda: None, (), threads), code, H100) == blocks


def test_other_gpus_hold_fewer_blocks() -> None:
    """An L4 has 100 KB of shared memory and room for 1536 threads in 24 blocks, an A100 164 KB; a B200 is like an H100."""
    small, shared, wide = (
        MachineCode((), {}, 24, 0, 1024),
        MachineCode((), {}, 24, 0, 25728),
        MachineCode((), {}, 32, 0, 0),
    )
    held = {
        machine.name: [
            resident_blocks(Kernel("probe", lambda: None, (), threads), code, machine)
            for threads, code in ((32, small), (128, shared), (256, wide))
        ]
        for machine in (A100, L4, H100, B200)
    }
    assert held == {
        "A100 SXM 80 GB": [32, 6, 8],
        "L4": [24, 3, 6],
        "H100 SXM": [32, 9, 8],
        "B200": [32, 9, 8],
    }


def test_a_kb_of_a_loop_is_counted(probe: MachineCode) -> None:
    """A turn streams 512 bytes with 8 instructions, and 4 wavefronts each of a copy, a shared load and a load."""
    assert H100.cycles_per_kb == pytest.approx(79, abs=0.1)
    found = predict(PROBE, 470e6, H100)
    assert (found.registers, found.blocks_per_sm, found.occupancy) == (64, 8, 0.5)
    assert (found.issue_cycles, found.l1_wavefronts) == (4.0, 24.0)
    assert found.tensor_cycles == pytest.approx(2 / 0.629)
    assert found.in_flight_bytes == 5 * 512 * 4 * 8
    assert predict(PROBE, 470e6, H100, spread=1 / 8).l1_wavefronts == 18.0  # no less than one


def test_a_loop_within_the_loop_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of how many turns it is, machine code does not tell: what is in it would be counted once."""
    text = SASS.replace("        /*0070*/", ".L_x_3:\n        /*0070*/").replace(
        "        /*0090*/", "        /*0088*/               @P1 BRA `(.L_x_3) ;\n        /*0090*/"
    )
    monkeypatch.setattr(prediction, "machine_code", lambda kernel, target: parse_sass(text))
    with pytest.raises(CompileError, match="probe: of a loop inside"):
        predict(PROBE, 470e6, H100)


def test_a_share_falls_with_what_is_short_and_with_what_is_small(probe: MachineCode) -> None:
    large, small = (predict(PROBE, size, H100).share for size in (1e12, 30e6))
    assert large == pytest.approx(1.0, abs=0.01)
    assert small == pytest.approx(10e-6 / (10e-6 * 1.002 + prediction.START_S), abs=0.01)
    assert predict(PROBE, 30e6, H200).share < small
    assert predict(PROBE, 30e6, H100, start_s=8e-6).share < small


def test_without_a_disassembler_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "tool", lambda name: None)
    with pytest.raises(
        CompileError, match=r"nvdisasm is not installed: pip install 'membound\[cuda-compile\]'"
    ):
        machine_code.__wrapped__(PROBE, "9.0a")


def test_the_command_prints_a_line_for_each_kernel(
    probe: MachineCode, capsys: pytest.CaptureFixture[str]
) -> None:
    spec = "step:model=llama-3.2-1b,weight=bf16,kv=bf16"
    for options in ([], ["--json"], ["--markdown"]):
        with pytest.raises(SystemExit) as ended:
            main(["cuda-build", "--report", spec, *options])
        assert ended.value.code == 0
        out = capsys.readouterr().out
        if options == ["--markdown"]:
            table = [line.split(" | ") for line in out.splitlines() if line.startswith("|")]
            assert [row[0] for row in table].count(f"| `{parse(spec).spec}`") == 2
            assert table[0][:3] == ["| work", "kernel", "launches"]
            assert {len(row) for row in table} == {13}
            assert table[-1][1:4] == [WHOLE, str(4 * 16 + 1 + 3 * 16 + 1), table[-1][3]]
        elif options:
            found = json.loads(out)
            assert {one["machine"] for one in found} == {"H100 SXM", "H200"}
            assert found[0]["work"] == parse(spec).spec
            streaming = {one["issue_cycles"] for one in found}
            assert streaming == {4.0, 0.0}  # the copy and the like stream nothing
            assert [one["kernel"] for one in found].count(WHOLE) == 2
        else:
            lines = out.splitlines()
            assert len(re.findall(r"^dot_bf16_m1_w4_r4_c1_s3_norm ", out, re.M)) == 2  # on either machine
            assert lines[0] == "H100 SXM, a copy at 3.00 TB/s expected: 79 cycles a KB"
            assert "registers" in lines[1]
            assert lines[2] == parse(spec).spec
            (copy, _) = re.findall(r"^copy_floats .*", out, re.M)
            assert copy.split() == ["copy_floats", "1", "-", "64", "4", "50%", "-", "-", "-", "-", "2.1", "-"]
            assert "predicted, not measured" in out
            assert lines[-1] == "Other GPUs by --target: 8.0, 8.9, 9.0a, 10.0"


def test_without_works_the_copy_stands_first(
    probe: MachineCode, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """On the GPU of a target, with its own multiprocessors unless others are named."""
    monkeypatch.setattr(suites, "DEVICE_WORKS", ("linear:n=4096,k=4096,m=1,weight=bf16",))
    monkeypatch.setattr(suites, "DEVICE_QUICK_WORKS", ())
    codes = {True: parse_sass(COPY), False: probe}
    monkeypatch.setattr(
        prediction, "machine_code", lambda kernel, _: codes[kernel.name.startswith("stream_copy")]
    )
    with pytest.raises(SystemExit):
        main(["cuda-build", "--report", "--target", "8.9", "--json"])
    found = json.loads(capsys.readouterr().out)
    assert [(one["machine"], one["work"], one["kernel"]) for one in found] == [
        *(("L4", "copy", f"stream_copy_u{unroll}") for unroll in (2, 4, 8)),
        ("L4", "linear:n=4096,k=4096,m=1,weight=bf16,act=float", "dot_bf16_m1_w4_r4_c1_s3"),
    ]
    assert found[0]["cycles"] == pytest.approx(1024 * 58 * 2.04e9 / 270e9)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["linear:n=16,k=64,weight=int8,act=int8"], "has no CUDA kernels"),
        (
            ["attention:context=9,kv=fp8", "--target", "8.6"],
            "fp8 caches need compute capability 8.9 or newer, not 8.6",
        ),
        (
            ["linear:n=16,k=64", "--target", "12.0"],
            "no GPU of compute capability 12.0 is described; the report knows 8.0, 8.9, 9.0a, 10.0",
        ),
    ],
)
def test_a_work_without_kernels_is_not_predicted(
    arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["cuda-build", "--report", *arguments])
    assert ended.value.code == 2
    assert said in capsys.readouterr().err


@pytest.mark.cuda_compile
def test_two_rows_a_warp_spare_the_first_level_cache_what_one_asks_of_it() -> None:
    """Four rows of x, n ≤ 4223: the plan of before and that of now. The review of the code counted 80 and 48."""
    before = predict(dot_kernel(Dot("bf16", 4, 1, 2, 2, 12)), 470e6, H100)
    variant = plan_linear("bf16", 4096, 4096, 4, 132).variant
    assert isinstance(variant, Dot)
    now = predict(dot_kernel(variant), 470e6, H100)
    assert before.l1_wavefronts > 79 > 60 > now.l1_wavefronts
    assert now.issue_cycles < before.issue_cycles
    assert now.share > before.share + 0.05


COPY = SASS.replace(
    "        /*0010*/                   LDGSTS.E.BYPASS.LTC256B.128 [R4], desc[UR4][R2.64] ;\n",
    "        /*0010*/                   LDG.E.128.CONSTANT R12, desc[UR4][R2.64] ;\n"
    "        /*0012*/                   LDG.E.128.CONSTANT R16, desc[UR4][R2.64] ;\n"
    "        /*0014*/                   STG.E.128 desc[UR4][R2.64], R12 ;\n"
    "        /*0016*/                   STG.E.128 desc[UR4][R2.64], R16 ;\n",
)


def test_a_copy_is_counted_outside_of_loops(monkeypatch: pytest.MonkeyPatch) -> None:
    """A thread loads 32 bytes and stores them with eight instructions, which are not those of the loop for the rest."""
    code = parse_sass(COPY)
    assert [name for name, _ in code.straight] == [
        *("LDC", "LDG.E.128.CONSTANT", "LDG.E.128.CONSTANT", "STG.E.128", "STG.E.128"),
        *("EXIT", "BRA", "NOP"),
    ]
    monkeypatch.setattr(prediction, "machine_code", lambda kernel, target: code)
    found = predict_copy(PROBE, H100)
    assert (found.issue_cycles, found.l1_wavefronts) == (8 / 4 / 2, 8.0)
    assert found.in_flight_bytes == 2 * 512 * 4 * 8
    needed = LATENCY_S / 2 * 3.0e12 / 132 / found.in_flight_bytes
    memory_s = (2 << 30) / 3.0e12
    assert found.time_s == pytest.approx(memory_s * (1 + needed**4) ** 0.25 + START_S)
    assert found.share == pytest.approx(memory_s / found.time_s)


def test_a_step_is_the_sum_of_its_launches(probe: MachineCode) -> None:
    """Norms and activations are launches of their own only where tensor cores multiply."""
    for weight, own in (("bf16", False), ("int8", True)):
        work = parse(f"step:model=llama-3.2-1b,weight={weight},kv=bf16,context=1024")
        assert isinstance(work, Step)
        *parts, whole = predictions(work, H100)
        layers = work.shape.layers
        times: dict[str, int] = {}
        for part in parts:
            family = part.kernel.partition("_")[0]
            times[family] = times.get(family, 0) + part.launches
        assert times == {
            **{"tensor" if own else "dot": 4 * layers + 1, "attention": layers, "combine": layers},
            **{"copy": 1, "append": layers},
            **({"rms": 2 * layers + 1, "silu": layers} if own else {}),
        }
        assert (whole.kernel, whole.launches) == (WHOLE, sum(times.values()))
        assert whole.time_s == pytest.approx(sum(part.launches * part.time_s for part in parts))
        read = work.traffic.weights_bytes + work.traffic.kv_read_bytes
        assert whole.streamed_bytes == pytest.approx(read, rel=0.01)
        assert whole.share == pytest.approx(whole.streamed_bytes / 3.0e12 / whole.time_s)
    (norm,) = (part for part in parts if part.kernel == "rms_norm")
    assert norm.time_s == pytest.approx(SHORTEST_S + 2 * LATENCY_S)


def test_attention_in_one_part_is_not_charged_for_combining(probe: MachineCode) -> None:
    """64 sequences of 4 KV heads keep an H100 busy; one does with 32 parts, which are a round, and two if heads are wider."""
    (whole,) = predictions(parse("attention:context=64,q_heads=8,kv_heads=8,batch=32,kv=bf16"), H100)
    memory_s = whole.streamed_bytes / 3.0e12
    assert whole.time_s == pytest.approx(memory_s + START_S, rel=0.01)
    (parts,) = predictions(parse("attention:context=32768,q_heads=32,kv_heads=8,batch=1,kv=bf16"), H100)
    memory_s = parts.streamed_bytes / 3.0e12
    assert parts.time_s == pytest.approx(memory_s + START_S + SHORTEST_S + 2 * LATENCY_S, rel=0.01)


def test_a_kernel_that_its_tensor_cores_hold_up_is_told(
    probe: MachineCode, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert predict(PROBE, 1e12, H100).share > 0.98
    monkeypatch.setattr(prediction, "cycles_of_product", lambda machine: H100.cycles_per_kb)
    assert predict(PROBE, 1e12, H100).share == pytest.approx(
        17**-0.25, abs=0.001
    )  # twice as long as the memory


@pytest.mark.cuda_compile
def test_four_bits_leave_half_of_the_issue_slots() -> None:
    (found,) = predictions(parse("linear:n=28672,k=8192,m=1,weight=int4g128"), H100)
    assert found.issue_cycles < 40 < 42  # 42 with a shift for each number
    assert found.l1_wavefronts < 40
    assert found.in_flight_bytes > 64 << 10
