"""A batch may be as small as the normalisation of the network allows, and no smaller."""

import pytest
from torch import nn

from lwexplain.errors import ModelError, TrainingError
from lwexplain.models.build import MODELS
from lwexplain.models.staged import StagedModel


class ToOnePixel(nn.Sequential):
    """A normalisation behind an average over the whole image."""

    def __init__(self, normalisation):
        super().__init__(nn.Conv2d(1, 8, 3), nn.AdaptiveAvgPool2d(1), normalisation)


NORMALISED = {
    "nothing": lambda: nn.Conv2d(1, 8, 3),
    "batch norm of a map": lambda: nn.Sequential(nn.Conv2d(1, 8, 3), nn.BatchNorm2d(8)),
    "instance norm of a map": lambda: nn.Sequential(nn.Conv2d(1, 8, 3), nn.InstanceNorm2d(8)),
    "layer norm of a row": lambda: nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.LayerNorm(8)),
    "group norm of a pixel": lambda: ToOnePixel(nn.GroupNorm(2, 8)),
    "batch norm of a pixel": lambda: ToOnePixel(nn.BatchNorm2d(8)),
    "batch norm of a row": lambda: nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.BatchNorm1d(8)),
    "group norm of single channels of a pixel": lambda: ToOnePixel(nn.GroupNorm(8, 8)),
    "instance norm of a pixel": lambda: ToOnePixel(nn.InstanceNorm2d(8)),
}
ALWAYS, FROM_TWO, NEVER = list(NORMALISED)[:5], list(NORMALISED)[5:7], list(NORMALISED)[7:]
"""The kinds that take one image, those that take two at least, and those that take none: with one value a group."""


@pytest.fixture
def normalised(make):
    """Make a trainer of a network of one stage, on grey images of 8 x 8 pixels."""

    def network(shape, classes, *, width=None, units="block", kind):
        return StagedModel({"only": NORMALISED[kind]()}, shape, classes)

    def build(name, batch, **overrides):
        model = {"name": "one_stage", "width": None, "options": {"kind": name}}
        samples = {"data.batch_size": batch, "data.options.samples": 60}
        return make(overrides={"model": model, "training.epochs": 1} | samples | overrides)

    with MODELS.temporary():
        MODELS.register("one_stage")(network)
        yield build


@pytest.mark.parametrize("name", ALWAYS)
def test_one_image_is_a_batch_where_every_normalisation_has_values_enough(normalised, name):
    trainer, run = normalised(name, 1)
    trainer.fit(run)
    assert run.manifest["status"] == "trained"


@pytest.mark.parametrize("name", FROM_TWO)
def test_one_image_is_refused_where_a_normalisation_would_see_one_value(normalised, name):
    with pytest.raises(TrainingError, match="stage 'only' or its head cannot normalise the features of one image"):
        normalised(name, 1)


def test_parts_of_a_batch_count_like_batches(normalised):
    with pytest.raises(TrainingError, match=r"cannot normalise .* one image .*: 2 in a batch, in 2 parts"):
        normalised("batch norm of a pixel", 2, **{"training.accumulate": 2})
    trainer, _ = normalised("batch norm of a pixel", 4, **{"training.accumulate": 2})
    assert all(module.training for module in trainer.model.modules())
    with pytest.raises(TrainingError, match="2 images in a batch cannot be divided into 3 parts"):
        normalised("nothing", 2, **{"training.accumulate": 3})


@pytest.mark.parametrize("name", NEVER)
def test_a_normalisation_of_single_values_is_refused_whatever_the_batch(normalised, name):
    for batch in (1, 32):
        with pytest.raises(ModelError, match=r"stage 'only' cannot take images of shape .*: Expected more than 1"):
            normalised(name, batch)
