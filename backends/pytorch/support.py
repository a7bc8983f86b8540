"""What torch has operators for: the reason why a work cannot run on a device with these variants, or None.

>>> from membound.kernels.work import parse
>>> unsupported(parse("linear:n=8,k=32,weight=mxfp4"), Variants(), "cpu")
'torch has no matmul over mxfp4 weights'
"""

from __future__ import annotations

from membound.backends.api import NO_FILES
from membound.backends.pytorch.variants import Variants
from membound.kernels import features, split
from membound.kernels.features import missing
from membound.kernels.layer_tensors import row_lengths
from membound.kernels.steps import has_index
from membound.kernels.weights.formats import EVERY_INTEGER_FORMAT
from membound.kernels.work import (
    DecodeAttention,
    LatentAttention,
    Linear,
    OnnxStep,
    Prefill,
    RoutedExperts,
    Step,
    Work,
)

OFFLOADED = ("f32", "bf16", "f16", "int8")
"""Weights whose layout is the same in host memory and on every device."""
LACKING = {features.PARALLEL, features.GELU}
NEWER = {
    features.DELTAS,
    features.MAMBAS,
    features.INDEXES,
    features.GATED,
    features.NO_MLP,
    features.UNGATED,
    *features.GEMMA_4,
}
FEATURES = features.EVERY - LACKING | NEWER
"""What a model computes beyond Llama and Qwen."""


def unsupported(work: Work, variants: Variants, device: str) -> str | None:
    """The format or operation for which torch has no operator, or what a variant is not for."""
    from membound.backends.pytorch.linear import linear_unsupported

    if isinstance(work, OnnxStep):
        return NO_FILES
    if isinstance(work, RoutedExperts):
        from membound.backends.pytorch.experts import experts_unsupported

        return experts_unsupported(work, variants, device)
    if variants.ranks > 1 and (not isinstance(work, Step) or (reason := split.refusal(work, variants.ranks))):
        return reason if isinstance(work, Step) else f"ranks (tp{variants.ranks}) share decode steps only"
    if variants.loop:
        return "the variant loop changes routed experts only"
    if not isinstance(work, Linear) and work.kv in ("int8", "fp8"):
        return f"torch has no attention over an {work.kv} cache"
    if isinstance(work, DecodeAttention | LatentAttention) and work.page:
        return "torch has no attention over a paged cache"
    form = variants.form
    if form != "grouped" and not isinstance(work, DecodeAttention | LatentAttention | Step):
        return f"the variant {form} changes decode attention only"
    if variants.offload and not isinstance(work, Step):
        return "the variant offload streams the layers of a step"
    if isinstance(work, Step) and variants.offload and work.weight not in OFFLOADED:
        return (
            f"the variant offload streams {', '.join(OFFLOADED)} weights, which any device takes as they are"
        )
    if form == "matmul" and not isinstance(work, Linear) and work.kv in ("bf16", "f16"):
        return f"scores rounded to {work.kv} between matmul and softmax lose more than 1 %"
    if isinstance(work, DecodeAttention | LatentAttention):
        return None
    has = FEATURES if form == "grouped" else FEATURES - {features.SOFTCAPS, features.SINKS}
    if not isinstance(work, Linear) and (reason := missing(work, has)):
        return reason
    indexed = not isinstance(work, Linear) and has_index(work.shape.decoder)
    if indexed and (variants.compiled or variants.offload):
        return "attention with an indexer runs as it is, without torch.compile and offload"
    if (
        isinstance(work, Prefill)
        and any(work.shape.decoder.state_bytes)
        and (variants.compiled or variants.graph)
    ):
        return "prompts with states run chunk by chunk as they are, without torch.compile and graphs"
    routed = not isinstance(work, Linear) and work.distinct > 0
    if routed and (reason := variants.without_experts(device == "cpu")):
        return reason
    if variants.compiled and work.act == "int8":
        return "torch.compile cannot trace torch's packed int8 weights"
    widths = [work.k] if isinstance(work, Linear) else row_lengths(work.shape.decoder)
    stored = None if isinstance(work, Linear) else work.stored
    if stored is not None and (isinstance(work, Prefill) or (reason := stored.of_one_format())):
        return "prompts take no weights as they are stored" if isinstance(work, Prefill) else reason
    formats = (work.weight,) if stored is None else stored.all_formats
    for one in formats:
        act = work.act if one in EVERY_INTEGER_FORMAT else "float"
        if reason := linear_unsupported(one, act, widths, device):
            return reason
    exact = next((one for one in formats if one in ("f32", "f16")), None)
    if exact is not None and not isinstance(work, Linear) and work.kv == "bf16":
        return f"torch reads a bf16 cache with bf16 queries: less exact than {exact} weights ask for"
    return None
