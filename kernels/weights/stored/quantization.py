"""What config.json says of stored quantisation: its `quantization_config` as a `Scheme`.

>>> scheme_of(path, {"quant_method": "awq", "bits": 4, "group_size": 128}).title
'AWQ, 4 bits, groups of 128'

Everything that changes what the numbers mean is read or refused by name; which calibration found them does not matter.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from membound.kernels.config_json import Config
from membound.kernels.model import ModelError
from membound.kernels.weights.stored.awq import Awq
from membound.kernels.weights.stored.compressed import Ignored, Packed, Whole
from membound.kernels.weights.stored.fp8_blocks import BLOCK, Fp8Blocks
from membound.kernels.weights.stored.gptq import Gptq
from membound.kernels.weights.stored.scheme import Scheme

NAMES = ("quantization_config", "compression_config")
REASONS = {
    "bitsandbytes": "its NF4 numbers stand for a table of 16 floats with scales that are quantised themselves, and no "
    "kernel multiplies by them; save the model as GPTQ, AWQ, compressed-tensors or floats",
    "mxfp4": "experts in MXFP4 are read of gpt_oss alone",
}
"""Why a way of storing that is known is not taken."""
NVFP4 = (
    "16 numbers share an e4m3 scale under one scale a matrix, and no kernel multiplies by them; save the model as GPTQ, AWQ, "
    "compressed-tensors' int4, FP8 blocks or floats"
)
LONGEST_VALUE = 60
"""Characters of a field's value in a refusal."""
E4M3 = ("e4m3", "float8_e4m3fn")
"""What FP8's numbers are called."""
REPETITIONS = 4
"""Of a pattern at most: each multiplies the time that a name takes by up to its length."""


def settings_of(path: Path, fields: dict[str, Any], text: dict[str, Any]) -> dict[str, Any] | None:
    """The quantization_config of a config.json or, where it has none, of the part `text` that writes text. Raises ModelError.

    None: there is none. Two that differ are refused, since nothing says which matrices each is of.
    """
    above, within = (next((part[name] for name in NAMES if part.get(name)), None) for part in (fields, text))
    if above is not None and within is not None and above != within:
        raise ModelError(f"{path}: quantization_config differs from that of the part that writes text")
    found = within if above is None else above
    if found is not None and not isinstance(found, dict):
        raise ModelError(f"{path}: quantization_config={found!r:.60} must be a JSON object")
    return found


def scheme_of(path: Path, fields: dict[str, Any]) -> Scheme | None:
    """How the matrices beside a config.json are stored; None: as floats. Raises ModelError that names what is not supported."""
    found = settings_of(path, fields, fields)
    if found is None:
        return None
    settings = Config(path, found)
    method = found.get("quant_method")
    if _is_nvfp4(found):
        raise ModelError(f"{path}: quantization_config says NVFP4, which is not supported: {NVFP4}")
    read = READERS.get(method) if isinstance(method, str) else None
    if read is None:
        reason = REASONS.get(method, "") if isinstance(method, str) else ""
        raise ModelError(
            f"{path}: quantization_config with quant_method {method!r:.60} is not supported; "
            + (reason or f"supported: {', '.join(READERS)}")
        )
    return read(settings)


def _refused(settings: Config, name: str, supported: str) -> ModelError:
    value = repr(settings.fields.get(name))
    if len(value) > LONGEST_VALUE:
        value = f"{value[:LONGEST_VALUE].rstrip()} …"
    return ModelError(
        f"{settings.path}: quantization_config has {name}={value}, which is not supported; supported: {supported}"
    )


def _is_nvfp4(found: dict[str, Any]) -> bool:
    """Whether some matrices are NVFP4, as llm-compressor and ModelOpt say it."""
    groups = found.get("config_groups")
    each = [one for one in groups.values() if isinstance(one, dict)] if isinstance(groups, dict) else []
    told = [found.get("quant_algo"), *(one.get("format") for one in (found, *each))]
    if any(isinstance(one, str) and "nvfp4" in one.lower() for one in told):
        return True
    weights = [one.get("weights") for one in each]
    return any(
        isinstance(one, dict)
        and (one.get("num_bits"), one.get("type"), one.get("group_size")) == (4, "float", 16)
        for one in weights
    )


def _group(settings: Config, name: str = "group_size") -> int:
    """Columns of a group; 0 for −1 or null, a whole row."""
    if name in settings.fields and settings.fields[name] in (-1, None):
        return 0
    return settings.count(name)


def _names(settings: Config, name: str) -> tuple[str, ...]:
    listed = settings.fields.get(name) or []
    if not isinstance(listed, list) or not all(isinstance(one, str) for one in listed):
        raise settings.bad(name, "a list of names")
    return tuple(listed)


def _gptq(settings: Config) -> Scheme:
    bits = settings.count("bits")
    if bits not in (4, 8):
        raise _refused(settings, "bits", "4, and symmetric 8")
    kind = settings.fields.get("checkpoint_format", "gptq")
    if kind not in ("gptq", "gptq_v2"):
        raise _refused(settings, "checkpoint_format", "gptq, gptq_v2")
    if settings.fields.get("dynamic"):
        raise _refused(settings, "dynamic", "one way for all matrices")
    some = bool(settings.fields.get("modules_in_block_to_quantize"))
    return Gptq(bits, _group(settings), int(kind == "gptq"), settings.flag("lm_head"), some)


def _awq(settings: Config) -> Scheme:
    fields = settings.fields
    bits = fields.get("bits", fields.get("w_bit", 4))
    if bits != 4:
        raise _refused(settings, "bits", "4")
    if str(fields.get("version", "gemm")).lower() != "gemm":
        raise _refused(settings, "version", "gemm")
    if fields.get("zero_point", True) is not True:
        raise _refused(settings, "zero_point", "true")
    name = "group_size" if "group_size" in fields else "q_group_size"
    return Awq(_group(settings, name), _names(settings, "modules_to_not_convert"))


def _compressed(settings: Config) -> Scheme:
    if settings.fields.get("kv_cache_scheme"):
        raise _refused(settings, "kv_cache_scheme", "weights alone")
    sparse = settings.fields.get("sparsity_config")
    if isinstance(sparse, dict) and sparse.get("format", "dense") != "dense":
        raise _refused(settings, "sparsity_config", "dense weights")
    groups = settings.fields.get("config_groups")
    if not isinstance(groups, dict) or len(groups) != 1 or not isinstance(next(iter(groups.values())), dict):
        raise _refused(settings, "config_groups", "one group, which all matrices are in")
    (group,) = groups.values()
    if group.get("targets") != ["Linear"]:
        raise _refused(Config(settings.path, group), "targets", "Linear")
    weights = group.get("weights")
    if not isinstance(weights, dict):
        raise _refused(Config(settings.path, group), "weights", "quantised weights")
    kind = group.get("format") or settings.fields.get("format")
    ignored = _ignored(settings)
    if kind == "pack-quantized":
        return _packed(Config(settings.path, weights), ignored)
    dtypes = {"int-quantized": ("int", "I8"), "float-quantized": ("float", "F8_E4M3")}
    if not isinstance(kind, str) or kind not in dtypes:
        raise _refused(settings, "format", "pack-quantized, int-quantized, float-quantized")
    return _whole(Config(settings.path, weights), *dtypes[kind], ignored)


def _ignored(settings: Config) -> Ignored:
    names = _names(settings, "ignore")
    for name in names:
        if not name.startswith("re:"):
            continue
        try:
            re.compile(name[3:])
        except (re.error, OverflowError, RecursionError) as error:
            raise ModelError(
                f"{settings.path}: ignore has {name!r:.60}, which is no pattern: {error}"
            ) from None
        if not _bounded(name[3:]):
            raise ModelError(
                f"{settings.path}: ignore has {name!r:.60}, which could take for ever to match: a pattern may repeat at most "
                f"{REPETITIONS} characters, and no groups"
            )
    return Ignored(names)


def _bounded(pattern: str) -> bool:
    """Whether a short name is matched within a short time: few repetitions, none of a group, which may hold others."""
    plain = re.sub(r"\\.|\[[^]]*\]", "x", pattern).replace("(?", "(")
    return len(re.findall(r"[*+?{][?+]?", plain)) <= REPETITIONS and not re.search(r"\)[*+{]", plain)


def _packed(weights: Config, ignored: Ignored) -> Scheme:
    if weights.fields.get("num_bits") != 4 or weights.fields.get("type", "int") != "int":
        raise _refused(weights, "num_bits", "4, of type int")
    strategy = weights.fields.get("strategy")
    if strategy not in ("group", "channel"):
        raise _refused(weights, "strategy", "group, channel")
    actorder = weights.fields.get("actorder")
    if actorder not in (None, False, True, "static", "weight", "group", "dynamic"):
        raise _refused(weights, "actorder", "static, group")
    symmetric = "symmetric" not in weights.fields or weights.flag("symmetric")
    group = _group(weights) if strategy == "group" else 0
    return Packed(group, symmetric, actorder in (True, "group", "dynamic"), ignored)


def _whole(weights: Config, kind: str, dtype: str, ignored: Ignored) -> Scheme:
    if weights.fields.get("num_bits") != 8 or weights.fields.get("type") != kind:
        raise _refused(weights, "num_bits", f"8, of type {kind}")
    if "symmetric" in weights.fields and not weights.flag("symmetric"):
        raise _refused(weights, "symmetric", "true")
    strategy = weights.fields.get("strategy")
    if strategy not in ("channel", "tensor"):
        raise _refused(weights, "strategy", "channel, tensor")
    return Whole(dtype, strategy == "channel", ignored)


def _fp8(settings: Config) -> Scheme:
    if settings.fields.get("weight_block_size") != [BLOCK, BLOCK]:
        raise _refused(settings, "weight_block_size", f"[{BLOCK}, {BLOCK}]")
    if settings.fields.get("fmt", "e4m3") not in E4M3:
        raise _refused(settings, "fmt", ", ".join(E4M3))
    return Fp8Blocks(_names(settings, "modules_to_not_convert"))


READERS: dict[str, Callable[[Config], Scheme]] = {
    "gptq": _gptq,
    "awq": _awq,
    "compressed-tensors": _compressed,
    "fp8": _fp8,
}
