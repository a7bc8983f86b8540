"""llama.cpp's server: how it is started, and how it names its metrics. The program is `serve`."""

from __future__ import annotations

from membound.backends.serving import MetricNames, ServedEngine

METRICS = MetricNames(
    prefix="llamacpp:",
    means={"mean_itl_s": ("tokens_predicted_seconds_total", "tokens_predicted_total")},
    counts={
        "prompt_tokens": "prompt_tokens_total",
        "output_tokens": "tokens_predicted_total",
        "steps": "n_decode_total",
    },
)

ENGINE = ServedEngine(
    name="llamacpp",
    program="membound.backends.llamacpp.serve",
    environment="llamacpp-server",
    metrics=METRICS,
    formats=("f32", "bf16", "f16"),
    step_backend="llamacpp:{device}",  # the plugin of examples/llamacpp
)
