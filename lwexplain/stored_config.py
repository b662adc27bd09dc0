"""What is taken from the configuration of a run directory, which may come from a stranger.

A run is analyzed, exported and gone on with as it was trained, but nothing is fetched for it and no other files of
weights are read: its weights are those in its own ``checkpoints``. Images are read where ``data.root`` says, never
written, and what they are is checked against the run's fingerprint.
"""

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lwexplain.arguments import shown
from lwexplain.config import Config, is_weight_file, load_config
from lwexplain.errors import RunError
from lwexplain.run import Run

WEIGHT_SOURCES = frozenset({
    "pretrained", "weights", "weights_backbone", "checkpoint_path", "checkpoint", "cache_dir", "pretrained_cfg",
    "pretrained_cfg_overlay", "pretrained_path", "pretrained_backbone",
})  # fmt: skip
"""Options of builders that say where weights come from."""

BUILDER_OPTIONS = frozenset({
    "arch", "stages",
    # torchvision
    "zero_init_residual", "groups", "width_per_group", "replace_stride_with_dilation", "init_weights", "dropout",
    "transform_input", "aux_logits", "image_size", "patch_size", "attention_dropout", "stochastic_depth_prob",
    "width_mult", "memory_efficient", "growth_rate", "drop_rate", "representation_size", "layer_scale",
    "reduced_tail", "dilated", "bn_size", "num_init_features", "block_config", "compression_factor",
    # timm
    "act_layer", "aa_layer", "norm_layer", "global_pool", "output_stride", "cardinality", "base_width", "stem_width",
    "stem_type", "replace_stem_pool", "block_reduce_first", "down_kernel_size", "avg_down", "channels", "layers",
    "drop_path_rate", "drop_block_rate", "zero_init_last", "img_size", "embed_dim", "depth", "depths", "dims",
    "num_heads", "head_dim", "mlp_ratio", "qkv_bias", "qk_norm", "scale_attn_norm", "scale_mlp_norm", "proj_bias",
    "init_values", "class_token", "pos_embed", "no_embed_class", "reg_tokens", "pre_norm", "final_norm", "fc_norm",
    "dynamic_img_size", "dynamic_img_pad", "strict_img_size", "pos_drop_rate", "patch_drop_rate", "proj_drop_rate",
    "attn_drop_rate", "kernel_sizes", "ls_init_value", "head_init_scale", "head_norm_first", "head_hidden_size",
    "conv_mlp", "conv_bias", "use_grn", "norm_eps", "window_size", "always_partition", "num_features", "stem_size",
    "stem_kernel_size", "fix_stem", "pad_type", "bn_momentum", "bn_eps", "bn_tf", "scriptable", "exportable", "no_jit",
})  # fmt: skip
"""Options of the builders of torchvision and timm that shape a network, and nothing else."""

LIBRARIES = ("torchvision", "timm")
PLAIN_TEXT = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.:#-]{0,199}")
LARGEST_OPTION = 1e6
MOST_ITEMS = 4096
MOST_PIXELS = 4096
MOST_WORKERS = 16

ROOM = 2**28
"""Bytes that a network may take beyond four times the file of its weights while it is built."""

OPTIONS = (
    "data.options",
    "model.options",
    "training.strategy_options",
    "training.head_options",
    "training.loss_options",
)


def config_of_run(run: Run) -> Config:
    """The configuration that a run is built, analyzed and exported with; raises RunError for one that is refused."""
    return without_outside(load_config(run.config()), f"{run.path}/config.yaml")


def most_bytes(run: Run) -> int:
    """Bytes that the network of a run may take while it is built, told by the file of its weights."""
    stamp = run.files.stamp("checkpoints/last.safetensors")
    return 4 * (stamp[1] if stamp else 0) + ROOM


def without_outside(config: Config, origin: str, *, download: bool = False) -> Config:
    """The same configuration without sources of weights and without ``data.download``, unless the person asks for it.

    Raises RunError for options that could name a file, an address or a class, and for sizes that no run has.
    """
    _require_plain(config, origin)
    kept = {name: value for name, value in config.model.options.items() if name not in WEIGHT_SOURCES}
    if config.model.name == "torchvision" and _is_fetched(config.model.options.get("weights")):
        kept["like_pretrained"] = True
    model = config.model.model_copy(update={"options": kept})
    data = config.data.model_copy(update={"download": download, "workers": min(config.data.workers, MOST_WORKERS)})
    return config.model_copy(update={"model": model, "data": data})


def _is_fetched(weights: Any) -> bool:
    """Whether weights are fetched by their name, and not read from a file."""
    return weights is not None and not is_weight_file(weights)


def is_config_of_a_run(path: Path) -> bool:
    """Whether a configuration file lies in a run directory."""
    return path.name == "config.yaml" and (path.parent / "run.json").exists()


def require_own_sources(config: Config, origin: str, overrides: Mapping[str, Any]) -> None:
    """Raise RunError where a configuration that lies in a run directory says to fetch something or to read weights.

    A person may say the same in ``overrides`` of their own.
    """
    _require_plain(config, origin)
    asked = [name for name, value in config.model.options.items() if name in WEIGHT_SOURCES and value]
    named = [f"model.options.{name}" for name in asked] + (["data.download"] if config.data.download else [])
    for name in named:
        if name not in overrides and name.rpartition(".")[0] not in overrides:
            raise RunError(
                f"{origin} lies in a run directory and sets {name}; what is fetched or read from elsewhere has to be "
                f"asked for by yourself: add {name}=VALUE, or copy the file out of the run and check it"
            )


def _require_plain(config: Config, origin: str) -> None:
    for key in OPTIONS:
        section, _, name = key.partition(".")
        for option, value in getattr(getattr(config, section), name).items():
            is_seed = option == "seed" and type(value) is int
            if option not in WEIGHT_SOURCES and not is_seed and not _is_plain(value):
                raise RunError(
                    f"{origin}: {key}.{shown(option)} is {shown(value)}; from a run directory only numbers, plain "
                    "words and lists of them are taken"
                )
    if config.model.name in LIBRARIES:
        unknown = sorted(map(str, set(config.model.options) - BUILDER_OPTIONS - WEIGHT_SOURCES))
        if unknown:
            raise RunError(
                f"{origin}: model.options.{shown(unknown[0])} is not among the options of {config.model.name} that are "
                "taken from a run directory; those are the ones that shape a network by numbers and plain words"
            )
    if (config.data.image_size or 0) > MOST_PIXELS or (config.model.width or 0) > MOST_PIXELS:
        raise RunError(f"{origin}: data.image_size and model.width of a run are at most {MOST_PIXELS:,}")


def _is_plain(value: Any, depth: int = 0) -> bool:
    if value is None or isinstance(value, bool):
        return True
    if isinstance(value, (int, float)):
        return math.isfinite(value) and abs(value) <= LARGEST_OPTION
    if isinstance(value, str):
        return PLAIN_TEXT.fullmatch(value) is not None and ".." not in value
    if not isinstance(value, list) or depth > 2 or len(value) > MOST_ITEMS:
        return False
    return all(_is_plain(item, depth + 1) for item in value)
