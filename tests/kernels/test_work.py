import pytest
from hypothesis import given
from hypothesis import strategies as st

from membound.kernels.models import MODELS
from membound.kernels.operations import kv_token_bytes
from membound.kernels.weights.formats import INTEGER_FORMATS
from membound.kernels.work import (
    ACTS,
    FORMATS,
    KV_FORMATS,
    DecodeAttention,
    LatentAttention,
    Linear,
    Prefill,
    SpecError,
    Step,
    Traffic,
    parse,
)


@pytest.mark.parametrize(
    ("weight", "weights_bytes", "scales_bytes"),
    [
        ("f32", 4 * 3 * 256, 0),
        ("bf16", 2 * 3 * 256, 0),
        ("f16", 2 * 3 * 256, 0),
        ("int8", 3 * 256, 3 * 4),
        ("int4g32", 3 * 128, 3 * 8 * 2),
        ("int4g128", 3 * 128, 3 * 2 * 2),
        ("int4g32z", 3 * 128, 3 * 8 * 3),
        ("int4g128z", 3 * 128, 3 * 2 * 3),
        ("q8_0", 3 * 256, 3 * 8 * 2),
        ("q4_0", 3 * 128, 3 * 8 * 2),
        ("q4_k", 3 * 128, 3 * 16),
        ("fp8g128", 3 * 256, 3 * 2 * 4),
        ("fp8b128", 3 * 256, 1 * 2 * 4),
        ("mxfp4", 3 * 128, 3 * 8),
    ],
)
def test_linear_bytes_and_flops(weight, weights_bytes, scales_bytes):
    work = Linear(n=3, k=256, m=5, weight=weight)
    assert work.flops == 2 * 5 * 3 * 256
    assert work.traffic == Traffic(
        weights_bytes=weights_bytes,
        scales_bytes=scales_bytes,
        activations_read_bytes=5 * 256 * 4,
        activations_written_bytes=5 * 3 * 4,
    )
    assert work.traffic.read_bytes == weights_bytes + scales_bytes + 5120
    assert work.traffic.written_bytes == 60
    assert work.footprint_bytes == work.traffic.total_bytes == weights_bytes + scales_bytes + 5180


@pytest.mark.parametrize(
    ("kv", "kv_bytes", "scales_bytes"),
    [
        ("f32", 4 * 2 * 64, 0),
        ("bf16", 2 * 2 * 64, 0),
        ("f16", 2 * 2 * 64, 0),
        ("int8", 2 * 64, 2 * 4),
        ("fp8", 2 * 64, 0),
    ],
)
def test_attention_bytes_and_flops(kv, kv_bytes, scales_bytes):
    work = DecodeAttention(context=100, q_heads=6, kv_heads=2, head_dim=64, batch=3, kv=kv)
    assert kv_token_bytes(kv, 2, 64) == (2 * kv_bytes, 2 * scales_bytes)
    assert work.flops == 4 * 3 * 100 * 6 * 64
    assert work.traffic == Traffic(
        scales_bytes=3 * 100 * 2 * scales_bytes,
        kv_read_bytes=3 * 100 * 2 * kv_bytes,
        activations_read_bytes=3 * 6 * 64 * 4,
        activations_written_bytes=3 * 6 * 64 * 4,
    )


@pytest.mark.parametrize(
    ("context", "page", "tokens", "pages"), [(100, 16, 112, 7), (96, 16, 96, 6), (1, 64, 64, 1)]
)
def test_whole_pages_and_their_table_are_read(context, page, tokens, pages):
    work = DecodeAttention(context, q_heads=6, kv_heads=2, head_dim=64, batch=3, kv="int8", page=page)
    plain = DecodeAttention(context, q_heads=6, kv_heads=2, head_dim=64, batch=3, kv="int8")
    assert work.flops == plain.flops
    assert work.traffic.kv_read_bytes == 3 * (tokens * 2 * 2 * 64 + pages * 4)
    assert work.traffic.scales_bytes == 3 * tokens * 2 * 2 * 4
    assert work.traffic.activations_read_bytes == plain.traffic.activations_read_bytes
    assert work.spec == plain.spec + f",page={page}"


def test_several_queries_read_the_cache_once():
    """Llama-3-8B with 8192 cached tokens, 4 new ones: 16 FLOP a byte of cache, where one query has 4."""
    work = parse("attention:context=8192,queries=4")
    assert work.traffic.kv_read_bytes == 33_554_432
    assert work.flops == 537_034_752
    assert work.traffic.kv_written_bytes == 4 * 8 * 2 * 128 * 2
    assert work.traffic.activations_read_bytes == 4 * 4 * (32 + 2 * 8) * 128
    assert work.traffic.activations_written_bytes == 4 * 4 * 32 * 128
    scaled = parse("attention:context=9,q_heads=6,kv_heads=2,head_dim=64,batch=3,kv=int8,queries=2")
    assert scaled.flops == 4 * 3 * 6 * 64 * (2 * 9 + 3)
    assert scaled.traffic.kv_written_bytes == 3 * 2 * (2 * 2 * 64 + 2 * 2 * 4)
    assert scaled.traffic.scales_bytes == 3 * 9 * 2 * 2 * 4


def test_one_query_is_the_work_of_before():
    work = parse("attention:context=100,queries=1")
    assert work == DecodeAttention(100)
    assert work.spec == "attention:context=100,q_heads=32,kv_heads=8,head_dim=128,batch=1,kv=bf16"
    assert parse("attention:context=100,queries=3").spec == f"{work.spec},queries=3"


def test_latent_attention_bytes_and_flops():
    work = LatentAttention(context=100, q_heads=16, batch=3, kv="bf16")
    assert work.flops == 2 * 3 * 16 * 100 * (576 + 512)
    assert work.traffic == Traffic(
        kv_read_bytes=3 * 100 * 576 * 2,
        activations_read_bytes=3 * 16 * 576 * 4,
        activations_written_bytes=3 * 16 * 512 * 4,
    )
    paged = LatentAttention(context=100, q_heads=16, batch=3, kv="int8", page=64)
    assert paged.traffic.kv_read_bytes == 3 * (128 * 576 + 2 * 4)
    assert paged.traffic.scales_bytes == 3 * 128 * 4
    assert parse("mla:context=100,q_heads=16,batch=3,kv=int8,page=64") == paged


# The tiny model by hand: hidden 256, 2 layers, 8 query and 2 KV heads of 32, MLP 512, vocabulary 1000.
LAYER_PARAMETERS = 256 * 256 + 2 * 64 * 256 + 256 * 256 + 3 * 512 * 256
HEAD_PARAMETERS = 1000 * 256
WIDTHS_IN = 3 * 256 + 256 + 2 * 256 + 512  # x of q, k, v; of o; of gate, up; of down
WIDTHS_OUT = 256 + 64 + 64 + 256 + 512 + 512 + 256


def test_step_bytes_and_flops_by_hand():
    work = Step("tiny", batch=3, context=10, weight="bf16", kv="int8")
    norms = 4 * (2 * 2 * 256 + 256)
    assert work.traffic == Traffic(
        weights_bytes=2 * (2 * LAYER_PARAMETERS + HEAD_PARAMETERS) + norms,
        scales_bytes=2 * 3 * 10 * 2 * 2 * 4,
        kv_read_bytes=2 * 3 * 10 * 2 * 2 * 32,
        kv_written_bytes=2 * 3 * (2 * 2 * 32 + 2 * 2 * 4),
        activations_read_bytes=4 * 3 * (2 * (WIDTHS_IN + 256) + 256),
        activations_written_bytes=4 * 3 * (2 * (WIDTHS_OUT + 256) + 1000),
    )
    assert work.flops == 2 * 3 * (2 * LAYER_PARAMETERS + HEAD_PARAMETERS) + 2 * 4 * 3 * 11 * 8 * 32


def test_step_bill_adds_up_and_layers_count():
    whole, half = Step("tiny"), Step("tiny", layers=1)
    names = [op.name for op in whole.operations]
    assert names[:7] == ["q", "k", "v", "o", "gate", "up", "down"]
    assert {"attention", "cache append", "lm_head", "final norm"} <= set(names)
    head = next(op for op in whole.operations if op.name == "lm_head")
    assert whole.flops - half.flops == half.flops - head.flops
    assert half.shape.layers == 1
    assert whole.shape.layers == 2


def test_prefill_bytes_and_flops_by_hand():
    work = Prefill("tiny", batch=2, tokens=7, weight="f32", kv="bf16", layers=1)
    tokens = 2 * 7
    assert work.flops == 2 * (tokens * LAYER_PARAMETERS + 2 * HEAD_PARAMETERS) + 4 * 2 * 28 * 8 * 32
    assert work.traffic.weights_bytes == 4 * (LAYER_PARAMETERS + HEAD_PARAMETERS) + 4 * 3 * 256
    assert work.traffic.kv_written_bytes == work.traffic.kv_read_bytes == tokens * 2 * 2 * 32 * 2
    assert work.footprint_bytes == work.traffic.total_bytes + 2 * tokens * 512 * 4


def test_qkv_bias_is_counted():
    work = Step("qwen2.5-0.5b", layers=1)
    bill = next(op for op in work.operations if op.name == "norms and biases")
    assert bill.traffic == Traffic(weights_bytes=4 * (2 * 896 + 14 * 64 + 2 * 2 * 64))


def test_llama_3_2_1b_streams_what_is_published():
    # 1.24e9 parameters: the figure on the model's card, embeddings tied.
    assert MODELS["llama-3.2-1b"].parameters == 1235746816
    assert Step("llama-3.2-1b", weight="bf16").traffic.weights_bytes == 2 * 1235746816 + 33 * 2048 * 4


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", r"unknown work ''; allowed: linear, attention, mla, experts, step, prefill, onnx"),
        ("conv:n=1", r"unknown work 'conv'"),
        ("linear", r"n, k missing; keys: n, k, m, weight, act"),
        ("linear:n=4", r"linear: k missing"),
        ("linear:n=4,k", r"'k' is not key=value"),
        ("linear:n=4,k=", r"'k=' is not key=value"),
        ("linear:n=4,k=4,n=5", r"n is given twice"),
        ("linear:n=4,k=4,wieght=int8", r"unknown key 'wieght' \(did you mean weight\?\); allowed: n, k, m"),
        ("linear:n=4k,k=4", r"n='4k' is not a whole number"),
        ("linear:n=4.0,k=4", r"n='4.0' is not a whole number"),
        ("linear:n=\u0663,k=4", "n='\u0663' is not a whole number"),
        ("linear:n=1_0,k=4", r"n='1_0' is not a whole number"),
        ("linear:n=+5,k=4", r"n='\+5' is not a whole number"),
        (f"linear:n={'9' * 5000},k=4", r"n='9{60}' is not a whole number"),
        ("linear:n=0,k=4", r"n=0 must be a whole number from 1"),
        ("linear:n=-3,k=4", r"n=-3 must be a whole number from 1"),
        ("linear:n=99999999999,k=4", r"n=99999999999 must be a whole number from 1 to 2147483648"),
        ("linear:n=4,k=4,weight=fp4", r"weight='fp4' is unknown; allowed: f32, bf16, f16, int8, int4g32"),
        ("linear:n=4,k=4,act=int4", r"act='int4' is unknown; allowed: float, int8"),
        (
            "linear:n=4,k=4,weight=bf16,act=int8",
            r"act=int8 goes with weight=int8, int4g32, int4g128, .*q4_0 or q4_k, not bf16",
        ),
        ("linear:n=4,k=48,weight=int4g32", r"k=48 must be a multiple of 32"),
        ("linear:n=4,k=896,weight=q4_k", r"k=896 must be a multiple of 256 for weight=q4_k"),
        ("step:model=qwen2.5-0.5b,weight=q4_k", r"hidden 896, not a multiple of 256 as weight=q4_k needs"),
        ("attention:context=8,q_heads=5,kv_heads=2", r"q_heads=5 must be a multiple of kv_heads=2"),
        ("attention:context=8,kv=fp4", r"kv='fp4' is unknown; allowed: f32, bf16, f16, int8, fp8"),
        ("attention:context=8,page=-16", r"attention: page=-16 must be a whole number from 1"),
        ("attention:context=8,queries=0", r"attention: queries=0 must be a whole number from 1"),
        ("attention:context=8,queries=2,page=16", r"queries=2 goes without pages, not with page=16"),
        ("mla:context=8,page=x", r"mla: page='x' is not a whole number"),
        ("mla:context=8,kv_heads=2", r"mla: unknown key 'kv_heads' \(did you mean q_heads\?\)"),
        ("mla:context=0", r"mla: context=0 must be"),
        ("linear:n=4,k=4,weight=fp8", r"weight='fp8' is unknown"),
        ("attention:q_heads=8", r"attention: context missing"),
        ("step:model=llama-9", r"step: unknown model 'llama-9'; known: tiny"),
        ("step:model=tiny,layers=3", r"layers=3 must be from 1 to 2 for tiny"),
        ("step:model=tiny,layers=-1", r"layers=-1 must be from 1 to 2"),
        ("prefill:model=tiny,context=5", r"prefill: unknown key 'context'"),
        ("prefill:model=tiny,tokens=0", r"tokens=0 must be"),
        ("prefill:model=tiny,tokens=65536,batch=65536", r"batch=65536 times tokens=65536 must be at most"),
        ("step:model=gpt-3-175b,weight=f32,act=int8", r"act=int8 goes with"),
    ],
)
def test_bad_specs_name_the_wrong_part(text, says):
    with pytest.raises(SpecError, match=says) as caught:
        parse(text)
    assert "\n" not in str(caught.value)


def test_whole_numbers_only():
    with pytest.raises(SpecError, match="m=True"):
        Linear(4, 4, m=True)
    with pytest.raises(SpecError, match=r"n=4\.0"):
        Linear(4.0, 4)  # type: ignore[arg-type]


def test_spaces_and_defaults():
    assert parse(" linear : n = 8 , k = 32 ".replace(" :", ":")) == Linear(8, 32)
    assert Linear(8, 32).spec == "linear:n=8,k=32,m=1,weight=bf16,act=float"
    assert Step("tiny").spec == "step:model=tiny,batch=1,context=1024,weight=bf16,kv=bf16,act=float"
    assert Step("tiny", layers=1).spec.endswith("act=float,layers=1")


sizes = st.integers(1, 1 << 20)
acts = st.sampled_from([(w, a) for w in FORMATS for a in ACTS if a == "float" or w in INTEGER_FORMATS])
kvs = st.sampled_from(list(KV_FORMATS))
linears = st.builds(
    lambda n, k, m, wa: Linear(n, 256 * k, m, *wa), sizes, st.integers(1, 1 << 15), sizes, acts
)
pages = st.integers(0, 256)
attentions = st.builds(
    lambda s, g, h, d, b, kv, page: DecodeAttention(s, g * h, h, d, b, kv, page),
    *(sizes, st.integers(1, 64), st.integers(1, 64), st.integers(1, 512), sizes, kvs, pages),
)
latents = st.builds(LatentAttention, sizes, st.integers(1, 128), sizes, kvs, pages)
models = st.sampled_from(["tiny", "llama-3.2-1b", "qwen2.5-1.5b"])
wholes = st.builds(
    lambda cls, model, b, t, wa, kv, layers: cls(model, b, t, wa[0], kv, wa[1], layers),
    *(st.sampled_from([Step, Prefill]), models, st.integers(1, 1 << 11), sizes, acts, kvs, st.integers(0, 2)),
)


@given(st.one_of(linears, attentions, latents, wholes))
def test_parse_reads_back_every_spec(work):
    assert parse(work.spec) == work
    assert work.flops > 0
    assert work.traffic.total_bytes == work.traffic.read_bytes + work.traffic.written_bytes
    assert work.footprint_bytes >= work.traffic.total_bytes
