"""vLLM as a server: how it is started, and how it names its metrics. The program is `serve`."""

from __future__ import annotations

from membound.backends.serving import MetricNames, ServedEngine

METRICS = MetricNames(
    prefix="vllm:",
    means={
        name: (f"{base}_sum", f"{base}_count")
        for name, base in {
            "mean_itl_s": "inter_token_latency_seconds",
            "mean_ttft_s": "time_to_first_token_seconds",
            "mean_queue_s": "request_queue_time_seconds",
            "mean_e2e_s": "e2e_request_latency_seconds",
            "tokens_per_step": "iteration_tokens_total",
        }.items()
    },
    counts={
        "preemptions": "num_preemptions_total",
        "prompt_tokens": "prompt_tokens_total",
        "output_tokens": "generation_tokens_total",
        "steps": "iteration_tokens_total_count",
    },
    settings=(
        "cache_config_info",
        ("block_size", "enable_prefix_caching", "cache_dtype", "num_gpu_blocks", "kv_cache_size_tokens"),
    ),
)

ENGINE = ServedEngine(
    name="vllm",
    program="membound.backends.vllm_engine.serve",
    environment="vllm",
    metrics=METRICS,
    formats=("f32", "bf16", "f16"),
    step_backend="vllm:{device}+tokens",
    variables={
        "HF_HUB_OFFLINE": "1",
        "TRANSFORMERS_OFFLINE": "1",
        "VLLM_NO_USAGE_STATS": "1",
        "DO_NOT_TRACK": "1",
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",  # fewer processes; the engine has one of its own all the same
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",  # else it takes its own number of threads
        "OMP_WAIT_POLICY": "PASSIVE",  # spinning threads would take the client's core
    },
    unset=("VLLM_CPU_KVCACHE_SPACE", "VLLM_API_KEY"),
)
