"""Images reach a model by place or by keyword, in the precision it computes in."""

import pytest
import torch
from torch import nn

from lwexplain.errors import ModelError
from lwexplain.models.calling import call_with_images, image_keyword


def network(forward):
    class Network(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(4, 4)

    Network.forward = forward
    return Network()


class Wrapper(nn.Module):
    """Passes everything on, as the wrappers of peft do."""

    def __init__(self, model):
        super().__init__()
        self.base_model = nn.Module()
        self.base_model.add_module("model", model)
        self.base_model.forward = model.forward

    def forward(self, *args, **kwargs):
        return self.base_model(*args, **kwargs)


class ByNameOnly(nn.Module):
    def __init__(self, model):
        super().__init__()
        self.network = model

    def forward(self, **kwargs):
        return self.network(**kwargs)


FORWARDS = [
    (lambda self, x: x, None),
    (lambda self, whatever: whatever, None),
    (lambda self, x, mask=None, scale=1.0: x * scale, None),
    (lambda self, x, *others, **options: x, None),
    (lambda self, *images: images[0], None),
    (lambda self, x=None, *, labels=None: x, None),
    (lambda self, frames=None: frames, None),
    (lambda self, *, pixel_values: pixel_values, "pixel_values"),
    (lambda self, *, labels=None, image=None, x=3: image, "image"),
    (lambda self, *, frames, labels=None: frames, "frames"),
    (lambda self, input_ids=None, pixel_values=None: pixel_values, "pixel_values"),
    (lambda self, labels=None, inputs=None, **options: inputs, "inputs"),
    (lambda self, **given: given["images"], "images"),
]


@pytest.mark.parametrize(("forward", "keyword"), FORWARDS)
def test_images_are_given_where_the_forward_takes_them(forward, keyword):
    images = torch.rand(2, 4)
    bare = network(forward)
    for model in (bare, nn.DataParallel(bare), Wrapper(bare), Wrapper(nn.DataParallel(bare))):
        assert image_keyword(model) == keyword
        assert torch.equal(call_with_images(model, images), images)


def test_a_wrapper_that_takes_names_only_gets_the_name_of_the_model_inside_it():
    images = torch.rand(2, 4)
    for forward, keyword in (
        (lambda self, x, mask=None: x, "x"),
        (lambda self, frames: frames, "frames"),
        (lambda self, *, pixel_values: pixel_values, "pixel_values"),
    ):
        model = ByNameOnly(network(forward))
        assert image_keyword(model) == keyword
        assert torch.equal(call_with_images(model, images), images)


def test_a_compiled_model_is_called_as_the_one_it_was_made_of():
    model = torch.compile(network(lambda self, *, pixel_values: pixel_values), backend="eager")
    assert image_keyword(model) == "pixel_values"


@pytest.mark.parametrize(
    ("forward", "reason"),
    [
        (lambda self, x, mask: x, "needs mask besides the images; wrap it in a module"),
        (lambda self, x, *, lengths, mask=None: x, "needs lengths besides the images"),
        (lambda self, *, pixel_values, labels: pixel_values, "needs labels besides the images"),
        (lambda self, *, first, second: first, "takes first, second, and none of them can be told to be the images"),
        (lambda self: None, "takes no arguments, and none"),
    ],
)
def test_a_model_that_needs_more_than_images_says_what_and_how_to_go_on(forward, reason):
    for model in (network(forward), nn.DataParallel(network(forward))):
        with pytest.raises(ModelError, match=reason):
            call_with_images(model, torch.rand(2, 4))


def test_a_wrapper_may_add_what_the_model_inside_it_needs():
    class Adding(nn.Module):
        def __init__(self):
            super().__init__()
            self.model = network(lambda self, x, mask: x * mask)

        def forward(self, *images):
            return self.model(*images, mask=2)

    images = torch.rand(2, 4)
    assert torch.equal(call_with_images(Adding(), images), 2 * images)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_images_take_the_precision_of_the_model(dtype):
    model = network(lambda self, *, pixel_values: pixel_values).to(dtype)
    assert call_with_images(model, torch.rand(2, 4)).dtype == dtype


def test_the_precision_of_a_model_of_several_is_found_by_keyword_too():
    class Mixed(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second = nn.Linear(4, 3).double(), nn.Linear(3, 2)

        def forward(self, *, inputs):
            return self.second(self.first(inputs).float())

    assert call_with_images(Mixed(), torch.rand(5, 4)).shape == (5, 2)
