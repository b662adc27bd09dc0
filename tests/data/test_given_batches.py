"""Batches of any common form are read into images, labels and index."""

from collections import UserDict, namedtuple
from dataclasses import dataclass
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from lwexplain.data.batch_form import BatchForm
from lwexplain.data.given_batches import check_loader, check_loaders, checked_batches, read_batch
from lwexplain.data.given_images import SCALED, TURNED
from lwexplain.errors import CaptureError, UserCodeError

IMAGES = torch.rand(4, 3, 8, 8, generator=torch.Generator().manual_seed(0))
PIXELS = (IMAGES * 255).round().to(torch.uint8)
LABELS = torch.tensor([2, 0, 1, 2])


@dataclass
class Sample:
    pixel_values: torch.Tensor
    labels: torch.Tensor
    index: torch.Tensor | None = None


Named = namedtuple("Named", ["target", "image"])
Plain = namedtuple("Plain", ["first", "second"])


class Keyed:
    """Has keys and items without being a mapping, as a TensorDict."""

    def __init__(self, **items):
        self.items = items

    def keys(self):
        return self.items.keys()

    def __getitem__(self, name):
        return self.items[name]


@pytest.mark.parametrize(
    "batch",
    [
        (IMAGES, LABELS),
        [IMAGES, LABELS],
        {"pixel_values": IMAGES, "labels": LABELS, "mask": None},
        {"images": IMAGES, "targets": LABELS},
        {"label": LABELS, "image": IMAGES},
        {"img": IMAGES, "label": LABELS},
        {"inputs": IMAGES, "target": LABELS},
        UserDict(x=IMAGES, y=LABELS),
        Keyed(images=IMAGES, labels=LABELS),
        Sample(IMAGES, LABELS),
        Named(LABELS, IMAGES),
        Plain(IMAGES, LABELS),
        SimpleNamespace(images=IMAGES, labels=LABELS),
        ({"pixel_values": IMAGES, "mask": 3}, LABELS),
        (list(IMAGES), LABELS.tolist()),
        (tuple(image.numpy() for image in IMAGES), tuple(LABELS.tolist())),
        (IMAGES.numpy(), LABELS.numpy()),
        (IMAGES.numpy()[:, ::-1][:, ::-1], LABELS[:, None]),
        [(image, label) for image, label in zip(IMAGES, LABELS, strict=True)],
        [(image, int(label)) for image, label in zip(IMAGES, LABELS, strict=True)],
        [{"image": image, "label": int(label)} for image, label in zip(IMAGES, LABELS, strict=True)],
    ],
)
def test_images_and_labels_are_found_in_any_common_form(batch):
    found = read_batch(batch)
    assert torch.equal(found.images, IMAGES)
    assert found.labels.tolist() == LABELS.tolist()
    assert found.labels.dtype == np.int64
    assert found.index is None
    assert not found.were_pixels
    assert found.notes == ()


@pytest.mark.parametrize(
    "batch",
    [
        (IMAGES, LABELS, torch.arange(4)),
        {"image": IMAGES, "label": LABELS, "index": [0, 1, 2, 3]},
        Sample(IMAGES, LABELS, np.arange(4, dtype=np.uint16)),
    ],
)
def test_an_index_is_found_where_there_is_one(batch):
    assert read_batch(batch).index.tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize("dtype", ["int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"])
def test_labels_may_be_of_any_integer_type(dtype):
    as_array, as_tensor = LABELS.numpy().astype(dtype), LABELS.to(getattr(torch, dtype))
    for labels in (as_array, as_tensor, as_tensor[:, None], list(as_array), list(as_tensor)):
        found = read_batch((IMAGES, labels)).labels
        assert found.dtype == np.int64
        assert found.tolist() == LABELS.tolist()


@pytest.mark.parametrize(
    ("labels", "reason"),
    [
        (torch.eye(4), "turn one-hot rows into class numbers with argmax"),
        (LABELS > 0, "found bool values"),
        ([True, False, True, True], "found bool values"),
        (LABELS.numpy() > 0, "found bool values"),
        (LABELS.float(), "found float32 values"),
        (LABELS - 1, "found -1"),
        (np.full(4, 2**64 - 1, dtype=np.uint64), "found 18446744073709551615"),
        (np.full(4, 2**40), "labels must be class numbers below 100,000"),
        (LABELS[:2], r"found the shape \(2,\)"),
        (["cat"] * 4, "found .'cat', 'cat'"),
    ],
)
def test_labels_that_are_no_class_numbers_are_refused(labels, reason):
    with pytest.raises(CaptureError, match=reason):
        read_batch({"image": IMAGES, "label": labels})


def test_pixels_become_floats_and_are_normalised_by_mean_and_std():
    plain = read_batch((PIXELS, LABELS))
    torch.testing.assert_close(plain.images, PIXELS / 255)
    assert plain.were_pixels
    assert plain.notes == (SCALED,)
    mean, std = (0.4, 0.5, 0.6), (0.2, 0.25, 0.3)
    normalised = read_batch((PIXELS, LABELS), form=BatchForm.of(None, mean, std))
    expected = (PIXELS / 255 - torch.tensor(mean)[:, None, None]) / torch.tensor(std)[:, None, None]
    torch.testing.assert_close(normalised.images, expected)
    assert normalised.notes == ()
    same = read_batch((PIXELS, LABELS), form=BatchForm.of(mean=0.5, std=torch.tensor([0.5])))
    torch.testing.assert_close(same.images, PIXELS / 127.5 - 1)


def test_images_of_floats_are_taken_as_normalised():
    assert torch.equal(read_batch((IMAGES, LABELS), form=BatchForm.of(None, [0.5] * 3, [0.5] * 3)).images, IMAGES)


@pytest.mark.parametrize("channels", [1, 3])
def test_pixels_with_their_channels_last_are_turned(channels):
    pixels = PIXELS[:, :channels]
    for given in (pixels.permute(0, 2, 3, 1), [image.permute(1, 2, 0).numpy() for image in pixels]):
        found = read_batch((given, LABELS))
        torch.testing.assert_close(found.images, pixels / 255)
        assert TURNED in found.notes


def test_pictures_of_pillow_are_read():
    from PIL import Image

    pictures = [Image.fromarray(image.permute(1, 2, 0).numpy()) for image in PIXELS]
    torch.testing.assert_close(read_batch((pictures, LABELS)).images, PIXELS / 255)
    with pytest.raises(CaptureError, match="found a single image with one label"):
        read_batch({"image": pictures[0], "label": 3})


def test_a_function_finds_images_and_labels_in_any_other_form():
    form = BatchForm.of(lambda batch: (batch["data"]["view"], batch["meta"][0]))
    found = read_batch({"data": {"view": PIXELS}, "meta": [LABELS, "rest"]}, form=form)
    torch.testing.assert_close(found.images, PIXELS / 255)
    assert found.labels.tolist() == LABELS.tolist()
    with pytest.raises(CaptureError, match=r"returned a dict .*; expected .images, labels."):
        read_batch((IMAGES, LABELS), form=BatchForm(lambda batch: {"x": batch[0]}))
    with pytest.raises(UserCodeError, match="the function given as batch= raised KeyError: 'img'"):
        read_batch({"image": IMAGES}, form=BatchForm(lambda batch: batch["img"]))


@pytest.mark.parametrize(
    ("batch", "reason"),
    [
        (
            {"picture": IMAGES, "class": LABELS},
            "found a dict with the keys picture, class; name the images pixel_values",
        ),
        ({"image": IMAGES, "class": LABELS}, "found a dict with the keys image, class without labels"),
        ((IMAGES, LABELS, LABELS, LABELS), "found 4 items; .* or pass batch=, a function"),
        ((IMAGES[0], 3), r"found a single image with one label; put the data set into a DataLoader"),
        ((PIXELS[0], LABELS[0]), "found a single image"),
        (([IMAGES[0], IMAGES[1, :, 2:]], [0, 1]), r"shapes \(3, 8, 8\) and \(3, 6, 8\); resize them to one shape"),
        ((["a.png", "b.png"], [0, 1]), "the images must be a tensor .* found .'a.png', 'b.png'"),
        (None, "found None"),
        ("ab", "found 'ab'"),
        ((), "found 0 items"),
    ],
)
def test_a_batch_without_images_or_labels_says_what_was_found(batch, reason):
    with pytest.raises(CaptureError, match=reason):
        read_batch(batch, "batch 3 of 'val'")


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        ({"batch": "image"}, "batch is 'image'; expected a function"),
        ({"mean": [0.5]}, "mean is given and std is not"),
        ({"std": [0.5]}, "std is given and mean is not"),
        ({"mean": (123.7, 116.3, 103.5), "std": (58, 57, 57)}, "divide mean and std by 255"),
        ({"mean": (0.5, 0.5), "std": 0.5}, "mean has 2 values and std 1"),
        ({"mean": 0.5, "std": 0}, "every value must be above 0"),
        ({"mean": "grey", "std": 1}, "mean is 'grey'; expected a number for each channel"),
        ({"mean": [0.5, None], "std": [1, 1]}, "expected a number for each channel"),
        ({"mean": [], "std": []}, "expected a number for each channel"),
        ({"mean": float("nan"), "std": 1}, "expected a number for each channel"),
    ],
)
def test_a_form_that_makes_no_sense_is_refused(given, reason):
    with pytest.raises(CaptureError, match=reason):
        BatchForm.of(**given)


def test_mean_and_std_may_be_lists_arrays_and_tensors():
    for make in (list, tuple, np.array, torch.tensor, lambda values: torch.tensor(values).reshape(3, 1, 1)):
        form = BatchForm.of(mean=make([0.25, 0.5, 0.75]), std=make([0.5, 0.5, 1.0]))
        assert form.mean == (0.25, 0.5, 0.75)
        assert form.std == (0.5, 0.5, 1.0)


CONVOLUTION = nn.Conv2d(3, 4, 3)


def test_the_batches_of_a_loader_are_given_in_one_form_with_what_was_noted():
    loader = DataLoader(TensorDataset(PIXELS.permute(0, 2, 3, 1), LABELS.to(torch.int16)), 3)
    batches = checked_batches(loader, "val", CONVOLUTION)
    for _ in range(2):
        given = list(batches)
        assert [len(images) for images, _ in given] == [3, 1]
        torch.testing.assert_close(torch.cat([images for images, _ in given]), PIXELS / 255)
        assert np.concatenate([labels for _, labels in given]).tolist() == LABELS.tolist()
    assert batches.shape == (3, 8, 8)
    assert batches.were_pixels
    assert batches.notes == [TURNED, SCALED]


@pytest.mark.parametrize(
    ("batches", "reason"),
    [
        (
            [(IMAGES, LABELS), (PIXELS, LABELS)],
            "batch 2 of 'val' holds images of uint8, the batches before it of floats",
        ),
        ([(IMAGES, LABELS), (IMAGES[..., 1:], LABELS)], r"shape \(3, 8, 7\), the batches before it \(3, 8, 8\)"),
        ([(IMAGES[:0], LABELS[:0])], "gave no batches to capture from; the loader is empty"),
        ([(IMAGES[:, 0], LABELS)], r"shape \(4, 8, 8\); expected .* add the channel with images\[:, None\]"),
        ([(PIXELS[:, 0], LABELS)], r"add the channel"),
        ([(PIXELS.int(), LABELS)], r"images of int32; .* images.to\(torch.uint8\)"),
    ],
)
def test_batches_that_do_not_fit_together_are_refused(batches, reason):
    with pytest.raises(CaptureError, match=reason):
        list(checked_batches(batches, "val", CONVOLUTION))


def test_mean_and_std_of_other_channels_are_refused():
    form = BatchForm.of(mean=[0.5] * 3, std=[0.5] * 3)
    for images in (IMAGES[:, :1], PIXELS[:, :1]):
        with pytest.raises(CaptureError, match=r"\(4, 1, 8, 8\), and mean and std have 3 values"):
            list(checked_batches([(images, LABELS)], "val", nn.Conv2d(1, 4, 3), form))


def test_a_generator_is_a_loader_that_a_second_pass_finds_given_out():
    def batches():
        yield IMAGES, LABELS

    loaders = {"train": [(IMAGES, LABELS)], "val": batches()}
    assert check_loaders(loaders) == loaders
    with pytest.raises(CaptureError, match="is the function batches; call it"):
        check_loader(batches, "val_loader")

    class Hidden:
        def __init__(self):
            self.batches = batches()

        def __iter__(self):
            return self.batches

    given = checked_batches(Hidden(), "val", CONVOLUTION)
    assert len(list(given)) == 1
    with pytest.raises(CaptureError, match="gives out after one pass: pass a DataLoader or a list"):
        list(given)
