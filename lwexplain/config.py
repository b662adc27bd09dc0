"""The experiment configuration: a YAML file checked field by field, unknown keys refused."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from lwexplain.arguments import shortened, shown, with_article
from lwexplain.errors import ConfigError
from lwexplain.registry import nearest
from lwexplain.run.files import read_named_file
from lwexplain.run.parsing import MOST_YAML, parse_yaml

MAX_SEED = 2**32 - 1
"""The largest seed that torch and NumPy both take."""

MOST_TOLD = 5
"""Faults of a configuration that are told at once."""

WEIGHT_FILES = (".safetensors", ".pt", ".pth", ".bin", ".json")
"""Ends of files that ``model.options.weights`` may name; .json is the index of weights in several files."""

Share = Annotated[float, Field(ge=0, le=1)]
Decay = Annotated[float, Field(ge=0, lt=1)]


class Section(BaseModel):
    """A part of the configuration. Unknown keys, wrong types and numbers that are not finite are errors.

    A section that is there but null (``training:`` and nothing below it) is empty.
    """

    model_config = ConfigDict(extra="forbid", validate_default=True, allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _null_is_empty(cls, tree: Any) -> Any:
        if not isinstance(tree, dict):
            return tree
        empty = {name for name, value in tree.items() if value is None and name in cls.model_fields}
        defaults = {name: cls.model_fields[name].get_default(call_default_factory=True) for name in empty}
        return tree | {name: {} for name in empty if isinstance(defaults[name], Section)}


class AugmentConfig(Section):
    """Random changes of each training image, drawn anew in every epoch."""

    crop: int = Field(0, ge=0, description="pad by this many pixels, then crop back at a random place")
    flip: bool = Field(False, description="mirror left-right with probability 1/2")
    cutout: int = Field(0, ge=0, description="side in pixels of a square that is blanked at a random place")


class DataConfig(Section):
    """Which images, how they are split and how they are fed."""

    name: str = Field("digits", description="a data set of `lwexplain list datasets`")
    root: Path | None = Field(None, description="folder that holds the files of the data set")
    download: bool = Field(False, description="let torchvision download the files into root")
    classes: list[str] | None = Field(None, description="only the images of these classes, in this order; absent = all")
    train_size: int | None = Field(None, ge=1, description="stratified subset of the training images; absent = all")
    val_fraction: float = Field(0.1, gt=0, lt=1, description="share of the training images held out as val")
    test_fraction: float = Field(0.2, gt=0, lt=1, description="share held out as test where the set has none")
    label_noise: float = Field(
        0.0, ge=0, le=1, description="share of the train and val labels that are drawn anew from all classes"
    )
    batch_size: int = Field(128, ge=1, description="images in a training step")
    image_size: int | None = Field(None, ge=4, description="resize to this height and width in pixels")
    channels: Literal[1, 3] | None = Field(None, description="convert to grey (1) or colour (3)")
    augment: AugmentConfig = Field(default_factory=AugmentConfig)
    resident: bool | None = Field(None, description="file sets: keep all images in memory; absent = if they fit")
    workers: int = Field(2, ge=0, description="loader processes for sets that are not resident")
    options: dict[str, Any] = Field(default_factory=dict, description="further options of this data set")


class ModelConfig(Section):
    """Which network and where it is cut into stages."""

    name: str = Field("resnet18", description="a model of `lwexplain list models`")
    width: int | None = Field(None, ge=1, description="channels of the first stage; absent = as published")
    units: Literal["block", "group", "layer"] = Field("block", description="what one stage is")
    stages: int | None = Field(None, description="merge neighbouring stages into this many; absent = as cut by units")
    balance: Literal["depth", "parameters", "activations"] = Field(
        "depth", description="what the merged stages hold equal shares of, as far as neighbours allow"
    )
    depth: int | None = Field(None, ge=1, description="keep only the first this many stages; absent = all")
    options: dict[str, Any] = Field(default_factory=dict, description="further options of this model")


class OptimizerConfig(Section):
    """How weights are updated."""

    name: Literal["sgd", "adamw"] = "sgd"
    lr: float = Field(0.1, gt=0, description="learning rate at its highest")
    momentum: float = Field(0.9, ge=0, lt=1, description="SGD only")
    nesterov: bool = Field(True, description="SGD only")
    betas: tuple[Decay, Decay] = Field((0.9, 0.999), description="AdamW only")
    weight_decay: float = Field(5e-4, ge=0, description="not applied to biases and normalisation weights")


class ScheduleConfig(Section):
    """How the learning rate moves over the epochs of a stage."""

    name: Literal["constant", "cosine", "step"] = "cosine"
    warmup_epochs: float = Field(0.0, ge=0, description="linear rise from zero, over at most half of training.epochs")
    milestones: list[Share] = Field(default_factory=lambda: [0.5, 0.75], description="step: shares of the epochs")
    gamma: float = Field(0.1, gt=0, le=1, description="step: factor at each milestone")


class TrainingConfig(Section):
    """Strategy and recipe."""

    strategy: str = Field("bp", description="a strategy of `lwexplain list strategies`")
    strategy_options: dict[str, Any] = Field(default_factory=dict, description="options of this strategy")
    train_from: int | str | None = Field(
        None,
        description="fine-tuning: the first stage that learns, by name or by depth from 1; those before it keep their "
        "pretrained weights and statistics and get no heads; absent = all learn",
    )
    epochs: int = Field(10, ge=1, description="passes over the training images (per stage for greedy)")
    head: str = Field("linear", description="what a stage is trained through: `lwexplain list heads`")
    head_options: dict[str, Any] = Field(default_factory=dict)
    loss: str = Field("cross_entropy", description="local loss: `lwexplain list losses`")
    loss_options: dict[str, Any] = Field(default_factory=dict)
    label_smoothing: float = Field(0.0, ge=0, lt=1, description="of every cross-entropy that a head learns from")
    optimizer: OptimizerConfig = Field(default_factory=OptimizerConfig)
    schedule: ScheduleConfig = Field(default_factory=ScheduleConfig)
    precision: Literal["fp32", "bf16"] = Field("fp32", description="bf16 = autocast of forward and loss")
    channels_last: bool = True
    compile: bool = Field(False, description="compile forward and backward with torch.compile")
    accumulate: int = Field(
        1,
        ge=1,
        description="a batch goes through the network in this many parts before its one update; batch normalisation "
        "and losses that compare samples see one part at a time",
    )
    gradient_checkpointing: bool = Field(False, description="recompute activations in the backward pass")
    prefix_cache: Literal["auto", "device", "memory", "disk", "off"] = Field(
        "auto", description="greedy: where the outputs of the frozen stages are kept; auto = where they fit"
    )
    prefix_views: int | None = Field(
        None,
        ge=1,
        description="greedy: augmented versions of each image in the prefix cache; absent = a fifth of the epochs, "
        "but 2 to 8",
    )
    keep: Literal["last", "best"] = Field(
        "last", description="weights a phase ends with: of its last epoch, or of the one with the best val accuracy"
    )
    stop: Literal["all", "auto"] = Field(
        "all", description="auto (greedy only): no further stage once val accuracy has stopped rising"
    )
    checkpoint_seconds: float = Field(60.0, gt=0, description="longest time between two checkpoints")

    @field_validator("train_from", mode="before")
    @classmethod
    def _is_stage_or_depth(cls, value: Any) -> Any:
        if value is None or (isinstance(value, str) and value) or (type(value) is int and value >= 1):
            return value
        raise ValueError("must be the name of a stage or a depth from 1")


class _WithoutAliases(yaml.SafeDumper):
    """Writes a list that stands at two places twice."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


class Config(Section):
    """One experiment: data, model and training, checked key by key.

    Attributes:
        seed: Of the split, the weights and the order of images.
        device: ``auto``, ``cpu``, ``cuda``, ``cuda:1`` or ``mps``.
        data: Which images, how they are split and how they are fed.
        model: Which network and where it is cut into stages.
        training: Strategy and recipe.

    Examples:
        >>> config = lw.Config(seed=1)
        >>> config.model.name
        'resnet18'
        >>> config.to_yaml().splitlines()[0]
        'seed: 1'
    """

    seed: int = Field(0, ge=0, le=MAX_SEED, description="of splits, weights and the order of images")
    device: str = Field("auto", description="auto, cpu, cuda, cuda:1, mps")
    data: DataConfig = Field(default_factory=DataConfig)
    model: ModelConfig = Field(default_factory=ModelConfig)
    training: TrainingConfig = Field(default_factory=TrainingConfig)

    def to_yaml(self) -> str:
        """The whole configuration, defaults included, as YAML."""
        return yaml.dump(self.model_dump(mode="json"), Dumper=_WithoutAliases, sort_keys=False)


def load_config(source: str | Path | dict[str, Any] | Config, overrides: dict[str, Any] | None = None) -> Config:
    """Read a configuration from a YAML file, a mapping or a Config.

    Args:
        source: The file, the mapping or the Config.
        overrides: Dotted keys on top of it, such as ``{"training.epochs": 3}``.

    Returns:
        The checked configuration, defaults included.

    Raises:
        ConfigError: The file cannot be read, or a key or value is wrong; the message names file, key and value.

    Examples:
        >>> config = lw.load_config({"data": {"name": "digits"}}, {"training.epochs": 3})
        >>> config.data.name, config.training.epochs, config.training.strategy
        ('digits', 3, 'bp')
    """
    if not isinstance(source, (str, Path, dict, Config)):
        raise ConfigError(
            f"a configuration is the path of a YAML file, a mapping of keys or a Config; found {shown(source)}"
        )
    if overrides is not None and not isinstance(overrides, Mapping):
        raise ConfigError(f"overrides are a mapping such as {{'training.epochs': 3}}; found {shown(overrides)}")
    origin = "the configuration"
    if isinstance(source, Config):
        tree = source.model_dump(mode="json")
    elif isinstance(source, dict):
        tree = _copy(source)
    else:
        origin = str(source)
        tree = _read_yaml(Path(source))
    for key, value in (overrides or {}).items():
        _set(tree, key, value, origin)
    try:
        return Config.model_validate(tree)
    except ValidationError as error:
        found = error.errors()
        rest = f"; and {len(found) - MOST_TOLD} more" if len(found) > MOST_TOLD else ""
        raise ConfigError(f"{origin}: {'; '.join(map(_explain, found[:MOST_TOLD]))}{rest}") from None


def is_weight_file(weights: Any) -> bool:
    """Whether ``model.options.weights`` is a file, and not a name under which a library fetches weights."""
    return isinstance(weights, str) and Path(weights).suffix in WEIGHT_FILES


def parse_overrides(pairs: list[str]) -> dict[str, Any]:
    """``["training.epochs=3"]`` -> ``{"training.epochs": 3}``; values are read as YAML."""
    overrides: dict[str, Any] = {}
    for pair in pairs:
        key, equals, text = pair.partition("=")
        if not equals or not key.strip():
            raise ConfigError(f"override {pair!r} is not of the form KEY=VALUE, for example training.epochs=3")
        try:
            overrides[key.strip()] = parse_yaml(text)
        except ValueError as error:
            raise ConfigError(f"override {shown(pair)}: the value is not valid YAML ({error})") from None
    return overrides


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        text = read_named_file(path, MOST_YAML).decode("utf-8")
    except FileNotFoundError:
        raise ConfigError(f"no configuration file {shortened(str(path), 200)}; see configs/ for ready ones") from None
    except (OSError, ValueError) as error:  # ValueError: not UTF-8, or no path at all
        reason = getattr(error, "strerror", None) or shortened(str(error), 100)
        raise ConfigError(f"cannot read the configuration {shown(str(path))}: {reason}") from None
    try:
        tree = parse_yaml(text)
    except ValueError as error:
        raise ConfigError(f"{path} is not valid YAML: {error}") from None
    if not isinstance(tree, dict):
        raise ConfigError(f"{path} must hold a mapping of keys such as data, model, training; found {_kind_of(tree)}")
    return tree


def _kind_of(tree: Any) -> str:
    """What a file holds in place of a mapping, without its content: it may be any file."""
    return "nothing" if tree is None else with_article(type(tree).__name__)


def _copy(tree: Any) -> Any:
    return {key: _copy(value) for key, value in tree.items()} if isinstance(tree, dict) else tree


def _set(tree: dict[str, Any], dotted: str, value: Any, origin: str) -> None:
    if not isinstance(dotted, str):
        raise ConfigError(
            f"{origin}: an override is named by a dotted key such as training.epochs; found {shown(dotted)}"
        )
    *parents, last = dotted.split(".")
    node = tree
    for name in parents:
        if node.get(name) is None:
            node[name] = {}
        child = node[name]
        if not isinstance(child, dict):
            raise ConfigError(f"{origin}: override {dotted!r} goes into {name!r}, which holds a value: {shown(child)}")
        node = child
    node[last] = value


def _explain(error: Any) -> str:
    path = [shortened(str(part)) for part in error["loc"]]
    dotted = ".".join(path)
    if error["type"] == "extra_forbidden":
        return f"unknown key {shown(dotted)}; {nearest(path[-1], _fields_at(path[:-1]))}"
    return f"{dotted}: {error['msg'].lower()}, found {shown(error['input'])}"


def _fields_at(path: list[str]) -> list[str]:
    section: Any = Config
    for name in path:
        section = section.model_fields[name].annotation
    return list(section.model_fields)
