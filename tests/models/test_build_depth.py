"""A model cut at a depth when it is built is the beginning of the whole one."""

import pytest
import torch

from lwexplain.config import ModelConfig
from lwexplain.errors import ModelError
from lwexplain.models.build import build_model, first_stages
from lwexplain.models.heads.linear import LinearHead


def built(**changed):
    return build_model(ModelConfig(name="resnet18", width=4, **changed), (1, 28, 28), 10, seed=0)


def test_the_first_stages_have_the_weights_they_have_in_the_whole_model():
    whole, short = built(), built(depth=4)
    assert short.names == whole.names[:4]
    assert short.input_shape == whole.input_shape
    assert short.num_classes == 10
    images = torch.randn(2, 1, 28, 28)
    expected = whole.eval().run_stages(images, 0, 4)
    torch.testing.assert_close(short.eval().run_stages(images, 0, 4), expected, rtol=0, atol=0)


def test_a_shortened_model_has_no_head_until_it_is_given_one():
    short = built(depth=2)
    assert short.head_depths == []
    short.set_head(2, LinearHead(short.sites()[-1]))
    assert short(torch.randn(3, 1, 28, 28)).shape == (3, 10)


def test_all_stages_are_the_model_itself():
    whole = built()
    assert first_stages(whole, whole.depth) is whole
    assert built(depth=9).names == whole.names


def test_depth_counts_the_stages_after_they_were_merged():
    assert built(stages=3, depth=2).names == built(stages=3).names[:2]


def test_more_stages_than_there_are_is_refused_with_their_names():
    with pytest.raises(ModelError, match=r"model.depth=10, but the model has 9 stages: stem, layer1.0, .*layer4.1"):
        built(depth=10)


def test_the_whole_model_is_not_changed_by_taking_its_first_stages():
    whole = built()
    first_stages(whole, 3)
    assert whole.depth == 9
