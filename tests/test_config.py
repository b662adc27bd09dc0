from pathlib import Path

import pytest

from lwexplain.config import Config, load_config, parse_overrides
from lwexplain.demo import CONFIGS
from lwexplain.errors import ConfigError

FOLDER = Path(__file__).parent.parent / "configs"


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.yaml")), ids=lambda path: path.stem)
def test_every_shipped_config_is_valid_and_survives_a_round_trip(path, tmp_path):
    config = load_config(path)
    copy = tmp_path / "copy.yaml"
    copy.write_text(config.to_yaml())
    assert load_config(copy) == config


@pytest.mark.parametrize("name", CONFIGS)
def test_demo_and_shipped_configs_are_the_same_experiments(name):
    assert load_config(CONFIGS[name]) == load_config(FOLDER / f"{name}.yaml")


def test_overrides_are_dotted_and_read_as_yaml():
    overrides = parse_overrides(["training.epochs=3", "data.augment.flip=true", "data.root=null", "model.name=vgg11"])
    config = load_config({}, overrides)
    assert (config.training.epochs, config.data.augment.flip, config.data.root, config.model.name) == (
        3,
        True,
        None,
        "vgg11",
    )


def test_overrides_do_not_change_the_mapping_they_are_applied_to():
    tree = {"training": {"epochs": 5}}
    load_config(tree, {"training.epochs": 3})
    assert tree == {"training": {"epochs": 5}}


@pytest.mark.parametrize(
    ("source", "overrides", "words"),
    [
        ({"training": {"epoch": 3}}, {}, ["training.epoch", "did you mean 'epochs'"]),
        ({"trainings": {}}, {}, ["'trainings'", "did you mean 'training'"]),
        ({"training": {"epochs": "many"}}, {}, ["training.epochs", "'many'"]),
        ({"training": {"precision": "fp8"}}, {}, ["training.precision", "fp8"]),
        ({"training": {"epochs": 2}}, {"training.epochs.more": 3}, ["training.epochs.more", "holds a value: 2"]),
        ({"data": {"val_fraction": 0}}, {}, ["data.val_fraction"]),
        ({"seed": 10**22}, {}, ["seed", "less than or equal to 4294967295", str(10**22)]),
        ({"seed": -1}, {}, ["seed", "-1"]),
        ({}, {"training.optimizer.betas": [1.5, 2]}, ["training.optimizer.betas.0", "less than 1", "1.5"]),
        ({}, {"training.optimizer.betas": [0.9, -0.1]}, ["training.optimizer.betas.1", "-0.1"]),
        ({}, {"training.optimizer.betas": [0.9]}, ["training.optimizer.betas", "[0.9]"]),
        ({}, {"training.optimizer.lr": float("inf")}, ["training.optimizer.lr", "finite number", "inf"]),
        ({}, {"training.schedule.warmup_epochs": float("inf")}, ["training.schedule.warmup_epochs", "finite", "inf"]),
        ({}, {"training.label_smoothing": float("nan")}, ["training.label_smoothing", "finite", "nan"]),
        ({}, {"training.schedule.milestones": [30, 60]}, ["training.schedule.milestones.0", "30"]),
        ({}, {"training.schedule.milestones": None}, ["training.schedule.milestones", "found None"]),
        ({"training": {"epoch": None}}, {}, ["training.epoch", "did you mean 'epochs'"]),
        ({"data": 3}, {}, ["data", "found 3"]),
        ({"model": {"options": None}}, {}, ["model.options", "found None"]),
        ({"model": {"options": [1]}}, {}, ["model.options", "[1]"]),
        ({1: 2}, {}, ["1", "found"]),
        ({}, {3: 4}, ["dotted key", "found 3"]),
        ({}, ["training.epochs=3"], ["overrides are a mapping", "training.epochs=3"]),
    ],
)
def test_a_wrong_key_or_value_is_named(source, overrides, words):
    with pytest.raises(ConfigError) as caught:
        load_config(source, overrides)
    for word in words:
        assert word in str(caught.value)


@pytest.mark.parametrize("section", ["data", "model", "training", "data.augment", "training.optimizer"])
def test_a_null_section_is_an_empty_one(section):
    assert load_config({}, {section: None}) == load_config({})


def test_a_null_section_takes_overrides(tmp_path):
    path = tmp_path / "null.yaml"
    path.write_text("training:\ndata: {augment: }\nmodel:\n")
    config = load_config(path, {"training.epochs": 3, "data.augment.flip": True, "model.options.depth": 2})
    assert (config.training.epochs, config.data.augment.flip, config.model.options) == (3, True, {"depth": 2})
    with pytest.raises(ConfigError, match=r"unknown key 'training.epoch'; did you mean 'epochs'"):
        load_config(path, {"training.epoch": 3})


@pytest.mark.parametrize("source", [None, [1], 3, b"config.yaml"])
def test_what_is_no_configuration_at_all_is_told_what_is_one(source):
    with pytest.raises(ConfigError, match="the path of a YAML file, a mapping of keys or a Config; found") as caught:
        load_config(source)
    assert repr(source) in str(caught.value)


@pytest.mark.parametrize("text", ["2024-99-99", "[1, 2", "[" * 5000])
def test_a_value_that_is_no_yaml_is_named(text, tmp_path):
    with pytest.raises(ConfigError, match=r"override 'training.epochs=.*is not valid YAML"):
        parse_overrides([f"training.epochs={text}"])
    path = tmp_path / "broken.yaml"
    path.write_text(f"seed: {text}")
    with pytest.raises(ConfigError, match=r"broken\.yaml is not valid YAML"):
        load_config(path)


def test_a_missing_file_a_broken_file_and_a_bare_value_are_named(tmp_path):
    with pytest.raises(ConfigError, match=r"no configuration file .*nowhere\.yaml"):
        load_config(tmp_path / "nowhere.yaml")
    broken = tmp_path / "broken.yaml"
    broken.write_text("data: [1, 2")
    with pytest.raises(ConfigError, match=r"broken\.yaml is not valid YAML"):
        load_config(broken)
    broken.write_text("just words")
    with pytest.raises(ConfigError, match="must hold a mapping"):
        load_config(broken)
    broken.write_bytes(b"\xff\xfe\x00")
    for path in (broken, tmp_path, "a\0b"):
        with pytest.raises(ConfigError, match="cannot read"):
            load_config(path)


@pytest.mark.parametrize("pair", ["training.epochs", "=3"])
def test_an_override_without_key_or_value_is_refused(pair):
    with pytest.raises(ConfigError, match="KEY=VALUE"):
        parse_overrides([pair])


def test_every_field_is_documented_or_named_as_in_the_field():
    self_explaining = {"seed", "name", "lr", "momentum", "head_options", "loss_options", "label_smoothing", "optimizer"}
    self_explaining |= {"schedule", "data", "model", "training", "augment", "channels_last", "stop"}

    def walk(section):
        for name, field in section.model_fields.items():
            assert field.description or name in self_explaining, name
            if hasattr(field.annotation, "model_fields"):
                walk(field.annotation)

    walk(Config)
