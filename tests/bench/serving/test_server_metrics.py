"""What a server says of itself, as vLLM writes it."""

from __future__ import annotations

import asyncio

import pytest
from servers import bad_server, garbage, null_server, whole

from membound.bench.serving.endpoint import parse_url
from membound.bench.serving.null_server import Script
from membound.bench.serving.server_metrics import (
    Metrics,
    beside,
    known_metrics,
    parse_metrics,
    read_metrics,
    server_facts,
)
from membound.results.serving.request import Request

pytest.importorskip("httptools")

KNOWN = known_metrics()

TEXT = """# HELP vllm:num_preemptions_total Cumulative number of preemption from the engine.
# TYPE vllm:num_preemptions_total counter
vllm:num_preemptions_total{engine="0",model_name="tiny"} 1.0
vllm:num_preemptions_total{engine="1",model_name="tiny"} 2.0
vllm:cache_config_info{block_size="128",cache_dtype="auto",enable_prefix_caching="False",engine="0"} 1.0
# TYPE vllm:inter_token_latency_seconds histogram
vllm:inter_token_latency_seconds_bucket{engine="0",le="0.01",model_name="tiny"} 4.0
vllm:inter_token_latency_seconds_bucket{engine="0",le="+Inf",model_name="tiny"} 5.0
vllm:inter_token_latency_seconds_count{engine="0",model_name="tiny"} 5.0
vllm:inter_token_latency_seconds_sum{engine="0",model_name="tiny"} 0.05
vllm:iteration_tokens_total_count{engine="0",model_name="tiny"} 10.0
vllm:iteration_tokens_total_sum{engine="0",model_name="tiny"} 40.0
vllm:odd{engine="0"} NaN
vllm:odder{engine="0"} many
python_gc_objects_collected_total{generation="0"} 9.0
"""


def later(text: str) -> str:
    return (
        text.replace('_count{engine="0",model_name="tiny"} 5.0', '_count{engine="0",model_name="tiny"} 25.0')
        .replace("} 0.05", "} 0.45")
        .replace("} 10.0", "} 20.0")
        .replace("} 40.0", "} 75.0")
        .replace('"} 2.0', '"} 4.0')
    )


def test_samples_are_summed_over_engines_and_settings_are_kept() -> None:
    found = parse_metrics(TEXT, KNOWN)
    assert found.values["num_preemptions_total"] == 3.0
    assert found.settings == {"block_size": "128", "cache_dtype": "auto", "enable_prefix_caching": "False"}
    assert not {"odd", "odder"} & {name for name, value in found.values.items() if value}


def test_labels_without_end_take_no_longer_than_others() -> None:
    """A search through all of these would take hours."""
    text = f"vllm:cache_config_info{{{'a' * 1_000_000}}} 1.0\nvllm:num_preemptions_total 3.0\n"
    found = parse_metrics(text, KNOWN)
    assert (found.settings, found.values["num_preemptions_total"]) == ({}, 3.0)


def test_figures_that_are_beyond_all_numbers_are_left_out() -> None:
    name = "inter_token_latency_seconds"
    text = (
        f"vllm:{name}_count 4\nvllm:{name}_sum 1e308\nvllm:{name}_sum 1e308\nvllm:num_preemptions_total 2\n"
    )
    facts = server_facts(Metrics(), parse_metrics(text, KNOWN))
    assert facts == {"preemptions": 2.0, "settings": {}}


def test_figures_of_a_point_are_what_grew() -> None:
    facts = server_facts(parse_metrics(TEXT, KNOWN), parse_metrics(later(TEXT), KNOWN))
    assert facts["mean_itl_s"] == pytest.approx(0.4 / 20)
    assert facts["tokens_per_step"] == pytest.approx(3.5)
    assert (facts["steps"], facts["preemptions"]) == (10.0, 2.0)
    assert facts["settings"]["block_size"] == "128"
    requests = [
        Request(0.0, 0.0, [1.0, 1.1, 1.3], [1, 1, 2], [0, 1, 2], ended_s=2.0),
        Request(0.0, 0.0, [9.0], [1], [0], ended_s=9.5, outcome="cut"),
    ]
    assert beside(facts, requests)["client_mean_itl_s"] == pytest.approx(0.1)


LLAMA = """llamacpp:prompt_tokens_total 5
llamacpp:tokens_predicted_total {0}
llamacpp:tokens_predicted_seconds_total {1}
llamacpp:n_decode_total {0}
llamacpp:requests_deferred 0
"""


def test_each_engine_names_its_samples_itself_and_of_others_nothing_is_read() -> None:
    before, after = (parse_metrics(LLAMA.format(*one), KNOWN) for one in ((5, 0.01), (25, 0.05)))
    facts = server_facts(before, after)
    assert facts["mean_itl_s"] == pytest.approx(0.002)
    assert (facts["steps"], facts["output_tokens"], facts["settings"]) == (20.0, 20.0, {})
    assert parse_metrics(LLAMA.format(5, 0.01).replace("llamacpp:", "other:"), KNOWN) == Metrics()
    both = TEXT + LLAMA.format(5, 0.01).replace("llamacpp:", "other:prefixed_")
    assert parse_metrics(both, KNOWN) == parse_metrics(TEXT, KNOWN)


def test_a_server_that_was_started_in_between_or_says_nothing_is_unknown() -> None:
    assert server_facts(parse_metrics(later(TEXT), KNOWN), parse_metrics(TEXT, KNOWN)) == {}
    assert server_facts(Metrics(), Metrics()) == {}
    assert beside({}, []) == {}


def test_metrics_are_read_where_there_are_any() -> None:
    with bad_server(whole("200 OK", TEXT.encode())) as url:
        assert asyncio.run(read_metrics(parse_url(url), KNOWN)) == parse_metrics(TEXT, KNOWN)
    with null_server(Script()) as url:
        assert asyncio.run(read_metrics(parse_url(url), KNOWN)) == Metrics()
    with bad_server(garbage) as url:
        assert asyncio.run(read_metrics(parse_url(url), KNOWN)) == Metrics()
    assert asyncio.run(read_metrics(parse_url("http://127.0.0.1:1"), KNOWN)) == Metrics()
