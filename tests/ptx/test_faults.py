"""What kernels may not do: the executor refuses each, on a few lines of PTX written for it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from executor.block import launch
from executor.copies import EARLY, LATE
from executor.decode import decode
from executor.program import PtxError, parse

HEAD = """
.version 9.0
.target sm_90a
.address_size 64
.visible .entry probe(
	.param .u64 probe_param_0,
	.param .u64 probe_param_1
)
.maxntid 64, 1, 1
{
	.reg .pred 	%p<4>;
	.reg .b32 	%r<20>;
	.reg .f32 	%f<4>;
	.reg .b64 	%rd<20>;
	.shared .align 16 .b8 box[1024];
	ld.param.u64 	%rd1, [probe_param_0];
	ld.param.u64 	%rd2, [probe_param_1];
	mov.u32 	%r1, %tid.x;
	mul.wide.u32 	%rd3, %r1, 4;
	add.s64 	%rd4, %rd1, %rd3;
	add.s64 	%rd5, %rd2, %rd3;
	mov.u64 	%rd6, box;
	add.s64 	%rd7, %rd6, %rd3;
	mul.wide.u32 	%rd8, %r1, 16;
	add.s64 	%rd9, %rd6, %rd8;
	cvt.u32.u64 	%r2, %rd9;
	add.s64 	%rd10, %rd1, %rd8;
"""


def execute(body: str, mode: str = LATE, races: bool = True, threads: int = 64, blocks: int = 1) -> Any:
    """What is in the second array afterwards; the first holds its own indices."""
    program = parse(HEAD + body + "\n\tret;\n}\n")
    source, target = np.arange(256, dtype=np.uint32), np.zeros(256, np.uint32)
    launch(program, decode(program), (blocks, 1, 1), threads, [source, target], mode, races)
    return target


COPY = """
	cp.async.cg.shared.global.L2::256B [%r2], [%rd10], 16;
	cp.async.commit_group;
"""


def test_copies_land_late_or_early_and_a_wait_makes_both_alike() -> None:
    read = "ld.shared.u32 %r3, [%rd9+4];\n st.global.u32 [%rd5], %r3;"
    own = 4 * np.arange(32) + 1
    assert (execute(COPY + read, LATE, races=False, threads=32)[:32] == 0xFFFFFFFF).all()
    np.testing.assert_array_equal(execute(COPY + read, EARLY, races=False, threads=32)[:32], own)
    with pytest.raises(PtxError, match="a copy that was not waited for"):
        execute(COPY + read)
    for wait, landed in ((0, True), (1, False)):
        code = f"{COPY} cp.async.wait_group {wait};\n {read}"
        found = execute(code, LATE, races=False, threads=32)[:32]
        assert np.array_equal(found, own) is landed
    # an empty group counts as one: behind it the first may be waited for by its number
    np.testing.assert_array_equal(
        execute(COPY + "cp.async.commit_group;\n cp.async.wait_group 1;\n" + read, LATE, True, 32)[:32], own
    )


SHARE = """
	st.shared.u32 [%rd7], %r1;
	{order}
	xor.b32 %r3, %r1, {other};
	mul.wide.u32 %rd11, %r3, 4;
	add.s64 %rd12, %rd6, %rd11;
	ld.shared.u32 %r4, [%rd12];
	st.global.u32 [%rd5], %r4;
"""


RACE = r"race: thread \d+ (reads what was written|writes what was read) by \d+"


@pytest.mark.parametrize(
    ("order", "other", "race"),
    [
        ("", 1, True),
        ("bar.warp.sync -1;", 1, False),
        ("bar.warp.sync -1;", 32, True),
        ("bar.sync 0;", 32, False),
        ("", 0, False),
    ],
)
def test_what_one_thread_writes_and_another_reads_needs_an_order(order: str, other: int, race: bool) -> None:
    body = SHARE.format(order=order, other=other)
    if race:
        with pytest.raises(PtxError, match=RACE):
            execute(body)
    else:
        np.testing.assert_array_equal(execute(body)[:64], np.arange(64) ^ other)


def test_overwriting_what_others_read_needs_an_order_too() -> None:
    body = SHARE.format(order="bar.sync 0;", other=32)
    again = "st.shared.u32 [%rd7], %r1;"
    with pytest.raises(PtxError, match=RACE):
        execute(body + again)
    execute(body + "bar.sync 0;" + again)


def test_a_lane_may_not_overwrite_what_others_read_with_it() -> None:
    read, write = "ld.shared.u32 %r3, [%rd6];", "setp.eq.s32 %p1, %r1, 31;\n @%p1 st.shared.u32 [%rd6], %r1;"
    with pytest.raises(PtxError, match="thread 31 writes what was read by several"):
        execute(read + write, threads=32)
    execute(read + "bar.warp.sync -1;" + write, threads=32)


@pytest.mark.parametrize(
    ("body", "race"),
    [
        ("@%p1 bar.sync 0;\n @%p1 st.global.u32 [%rd5], %r1;\n @!%p1 ld.global.u32 %r3, [%rd5];", True),
        ("@!%p1 bar.sync 0;\n ld.global.u32 %r3, [%rd5];\n @!%p1 st.global.u32 [%rd5], %r1;", True),
        ("@%p1 ld.global.u32 %r3, [%rd5];\n @%p1 st.global.u32 [%rd5], %r1;", False),
        ("ld.global.u32 %r3, [%rd5];\n @%p1 st.global.u32 [%rd5+512], %r1;", False),
    ],
    ids=["behind-a-barrier", "read-by-both", "of-one-block", "elsewhere"],
)
def test_no_barrier_orders_two_blocks(body: str, race: bool) -> None:
    first = "mov.u32 %r5, %ctaid.x;\n setp.eq.s32 %p1, %r5, 0;\n"
    if race:
        with pytest.raises(PtxError, match=RACE.replace(r"\d+", r"(\d+|several)")):
            execute(first + body, blocks=2)
    else:
        execute(first + body, blocks=2)


@pytest.mark.parametrize(
    ("body", "match"),
    [
        ("ld.global.u32 %r3, [%rd4+1];", "not aligned to 4 bytes"),
        ("ld.global.v4.u32 {%r3, %r4, %r5, %r6}, [%rd4];", "not aligned to 16 bytes"),
        ("ld.global.u32 %r3, [%rd4+1020];", "of argument 0, which has 1024"),
        ("st.shared.u32 [%rd7+1000], %r1;", "of shared memory, which has 1024"),
        ("ld.global.u32 %r3, [%rd15];", r"in no array|not aligned"),
        ("st.global.u32 [%rd2], %r1;", "write the same bytes at once"),
        ("ld.global.nc.u32 %r3, [%rd4];\\n st.global.u32 [%rd4], %r1;", "was read by ld.global.nc"),
        ("st.global.u32 [%rd4], %r1;\\n ld.global.nc.u32 %r3, [%rd4];", "which this kernel has written"),
        ("frobnicate.u32 %r3, %r1;", "unknown instruction"),
        ("mma.sync.aligned.m16n8k8.row.col.f32.bf16.bf16.f32 {%f1}, {%r1}, {%r1}, {%f1};", "not known here"),
        ("bar.sync 1;", "only a barrier of all threads"),
        ("shfl.sync.bfly.b32 %r3, %r1, 1, 31, 15;", "a mask of the whole warp"),
        ("cp.async.ca.shared.global [%r2], [%rd10], 4;", "not known here"),
    ],
)
def test_what_is_wrong_is_refused_with_the_instruction(body: str, match: str) -> None:
    with pytest.raises(PtxError, match=match):
        execute(body.replace("\\n", "\n"))


def test_blocks_do_not_see_what_others_write() -> None:
    with pytest.raises(PtxError, match="race: thread"):
        execute("st.global.u32 [%rd5], %r1;", blocks=2)


BRANCH = """
	and.b32 %r3, %r1, 1;
	setp.eq.s32 %p1, %r3, 0;
	@%p1 bra $EVEN;
	add.s32 %r4, %r1, 100;
	{inside}
	bra.uni $END;
$EVEN:
	add.s32 %r4, %r1, 200;
$END:
	{behind}
	st.global.u32 [%rd5], %r4;
"""


def test_lanes_that_run_apart_meet_again() -> None:
    lanes = np.arange(64)
    found = execute(BRANCH.format(inside="", behind="bar.warp.sync -1;"))[:64]
    np.testing.assert_array_equal(found, np.where(lanes % 2, lanes + 100, lanes + 200))


@pytest.mark.parametrize(
    "instruction",
    [
        "bar.sync 0;",
        "bar.warp.sync -1;",
        "movmatrix.sync.aligned.m8n8.trans.b16 %r5, %r4;",
        "shfl.sync.bfly.b32 %r5, %r4, 1, 31, -1;",
    ],
)
def test_an_instruction_of_the_whole_warp_in_half_of_it_is_refused(instruction: str) -> None:
    for inside, behind in ((instruction, ""), (instruction, instruction)):
        with pytest.raises(PtxError, match=r"some lanes of a warp only|wait apart"):
            execute(BRANCH.format(inside=inside, behind=behind))
    with pytest.raises(PtxError, match="its guard holds for some lanes only"):
        execute("and.b32 %r3, %r1, 1;\n setp.eq.s32 %p1, %r3, 0;\n mov.u32 %r4, %r1;\n @%p1 " + instruction)


def test_a_barrier_that_some_warps_never_reach_is_refused() -> None:
    with pytest.raises(PtxError, match="a barrier that others never reach"):
        execute("setp.lt.u32 %p1, %r1, 32;\n @%p1 bra $OUT;\n bar.sync 0;\n$OUT:")


def test_registers_and_shared_memory_start_as_garbage() -> None:
    found = execute("add.s32 %r3, %r9, 1;\n st.global.u32 [%rd5], %r3;")[:64]
    assert (found == 0xFFC0DEAE).all()
    found = execute("ld.shared.u32 %r3, [%rd7];\n st.global.u32 [%rd5], %r3;")[:64]
    assert (found == 0xFFFFFFFF).all()
