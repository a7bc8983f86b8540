"""What is counted in machine code, and what is made of it: on text written for the test, and on kernels."""

from __future__ import annotations

import json
import re

import pytest

from membound.bench.cli import main
from membound.kernels.cuda import prediction
from membound.kernels.cuda.compile import CompileError, Kernel
from membound.kernels.cuda.device import machine_code as module
from membound.kernels.cuda.device.machine_code import MachineCode, machine_code, parse_sass
from membound.kernels.cuda.matmul.dot import Dot, dot_kernel
from membound.kernels.cuda.matmul.linear import plan_linear
from membound.kernels.cuda.prediction import H100, H200, predict, predictions, resident_blocks
from membound.kernels.work import parse

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
    assert resident_blocks(Kernel("probe", lambda: None, (), threads), code) == blocks


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
    for options in ([], ["--json"]):
        with pytest.raises(SystemExit) as ended:
            main(["cuda-build", "--report", spec, *options])
        assert ended.value.code == 0
        out = capsys.readouterr().out
        if options:
            found = json.loads(out)
            assert {one["machine"] for one in found} == {"H100 SXM", "H200"}
            assert found[0]["work"] == parse(spec).spec
            assert {one["issue_cycles"] for one in found} == {4.0}
        else:
            lines = out.splitlines()
            assert (
                len(re.findall(r"^dot_bf16_m1_w2_r4_c1_s6 ", out, re.M)) == 2 * 2
            )  # gate and up, vocabulary; on either
            assert "registers" in lines[1]
            assert "predicted, not measured" in lines[-1]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["linear:n=16,k=64,weight=int8,act=int8"], "has no CUDA kernels"),
        (
            ["attention:context=9,kv=fp8", "--target", "8.6"],
            "fp8 caches need compute capability 8.9 or newer, not 8.6",
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


def test_a_kernel_that_its_tensor_cores_hold_up_is_told(
    probe: MachineCode, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert predict(PROBE, 1e12, H100).share > 0.98
    monkeypatch.setattr(prediction, "TENSOR_CYCLES", H100.cycles_per_kb)
    assert predict(PROBE, 1e12, H100).share == pytest.approx(
        17**-0.25, abs=0.001
    )  # twice as long as the memory


@pytest.mark.cuda_compile
def test_four_bits_leave_half_of_the_issue_slots() -> None:
    (found,) = predictions(parse("linear:n=28672,k=8192,m=1,weight=int4g128"), H100)
    assert found.issue_cycles < 40 < 42  # 42 with a shift for each number
    assert found.l1_wavefronts < 40
    assert found.in_flight_bytes > 64 << 10
