import os

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from lwexplain.config import AugmentConfig
from lwexplain.data.batches import Batches
from lwexplain.data.dataset import ImageArrays, ImageFiles
from lwexplain.errors import DataError

MEAN, STD = [0.5, 0.4, 0.3], [0.2, 0.3, 0.4]
AUGMENT = AugmentConfig(crop=2, flip=True, cutout=3)


def arrays(count=22):
    images = torch.randint(0, 256, (count, 3, 8, 8), generator=torch.Generator().manual_seed(0))
    return ImageArrays(images.to(torch.uint8), torch.arange(count) % 5)


def batches(images=None, batch_size=4, **options):
    options = {"mean": MEAN, "std": STD, "seed": 1, **options}
    return Batches(arrays() if images is None else images, batch_size, **options)


def assert_same(one, other):
    one, other = list(one), list(other)
    assert len(one) == len(other)
    for left, right in zip(one, other, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(left, right, strict=True))


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("images")
    stored = arrays()
    for row, image in enumerate(stored.images):
        Image.fromarray(image.permute(1, 2, 0).numpy()).save(folder / f"{row}.png")
    names = [f"{row}.png" for row in range(len(stored))]
    return ImageFiles(names, stored.labels, channels=3, size=(8, 8), root=folder)


@pytest.mark.parametrize("augment", [None, AUGMENT])
@pytest.mark.parametrize("workers", [0, 1, 2])
def test_files_and_arrays_give_identical_batches_with_any_number_of_workers(files, augment, workers):
    held = batches(shuffle=True, augment=augment)
    read = batches(files, shuffle=True, augment=augment, workers=workers)
    assert_same(held.epoch(3), read.epoch(3))


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 5), st.integers(0, 6), st.booleans(), st.integers(0, 9))
def test_starting_at_a_step_gives_the_batches_of_running_through(key, start, drop_last, seed):
    made = batches(shuffle=True, augment=AUGMENT, drop_last=drop_last, seed=seed)
    start = min(start, len(made))
    assert_same(made.epoch(key, start), list(made.epoch(key))[start:])


def test_starting_at_a_step_is_exact_with_workers_too(files):
    made = batches(files, shuffle=True, augment=AUGMENT, workers=2)
    assert_same(made.epoch(1, 4), list(batches(shuffle=True, augment=AUGMENT).epoch(1))[4:])
    assert list(made.epoch(1, len(made))) == []


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 30), st.integers(1, 40), st.booleans())
def test_an_epoch_has_as_many_steps_as_len_says_and_each_image_at_most_once(count, batch_size, drop_last):
    made = batches(arrays(count), batch_size, shuffle=True, drop_last=drop_last)
    steps = [index for _, _, index in made.epoch()]
    assert len(steps) == len(made) >= 1
    seen = torch.cat(steps)
    assert len(seen.unique()) == len(seen)
    if not drop_last:
        assert len(seen) == count
    elif count >= batch_size:
        assert {len(index) for index in steps} == {batch_size}
    else:
        assert len(seen) == count


def test_a_batch_holds_the_normalised_images_their_labels_and_their_positions():
    images = arrays()
    mean, std = (torch.tensor(values).reshape(1, 3, 1, 1) for values in (MEAN, STD))
    for x, y, index in batches(images, shuffle=True).epoch():
        assert (x.dtype, y.dtype, index.dtype) == (torch.float32, torch.int64, torch.int64)
        assert torch.allclose(x, (images.images[index] / 255 - mean) / std, atol=1e-5)
        assert torch.equal(y, images.labels[index])


# ---------------------------------------------------------------------- shards


def joined(shards):
    """The rows of all shards of each batch in the order of the whole batch."""
    for parts in zip(*shards, strict=True):
        numbers = [torch.arange(len(index)) * len(parts) + rank for rank, (_, _, index) in enumerate(parts)]
        order = torch.cat(numbers).argsort()
        yield tuple(torch.cat(tensors)[order] for tensors in zip(*parts, strict=True))


@pytest.mark.parametrize("kind", ["arrays", "files"])
@pytest.mark.parametrize("size", [1, 2, 3])
def test_the_shards_of_a_batch_are_the_batch(files, kind, size):
    """Pixels as augmented, labels and positions; batches of 4, 4, 4, 4, 4 and 2."""
    options = {"shuffle": True, "augment": AUGMENT}
    shards = [batches(files if kind == "files" else None, shard=(rank, size), **options) for rank in range(size)]
    assert_same(joined([shard.epoch(3) for shard in shards]), batches(**options).epoch(3))


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 50), st.integers(1, 7))
def test_shards_differ_by_one_row_at_most_and_leave_none_out(count, size):
    rows = [list(range(count))[batches(shard=(rank, size)).shard_of(count)] for rank in range(size)]
    assert sorted(row for part in rows for row in part) == list(range(count))
    assert max(map(len, rows)) - min(map(len, rows)) <= 1


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 5), st.integers(1, 5), st.integers(1, 4))
def test_a_part_of_every_shard_is_a_part_of_the_batch(size, parts, rows):
    """So a batch that is accumulated in parts falls into the same parts in any number of processes."""
    positions = torch.arange(size * parts * rows)
    shards = [positions[batches(shard=(rank, size)).shard_of(len(positions))] for rank in range(size)]
    for number, expected in enumerate(positions.tensor_split(parts)):
        found = torch.cat([shard.tensor_split(parts)[number] for shard in shards])
        assert torch.equal(found.sort()[0], expected)


# ---------------------------------------------------------------------- steps, order, pixels


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 5), st.integers(0, 6), st.booleans(), st.booleans())
def test_steps_are_the_positions_of_the_whole_batches(key, start, drop_last, sharded):
    made = batches(shuffle=True, drop_last=drop_last, shard=(1, 2) if sharded else (0, 1))
    start = min(start, len(made))
    expected = [index for _, _, index in batches(shuffle=True, drop_last=drop_last).epoch(key, start)]
    assert [step.tolist() for step in made.steps(key, start)] == [index.tolist() for index in expected]


@pytest.mark.parametrize("kind", ["arrays", "files"])
def test_in_order_holds_every_image_once_and_augmented_alike(files, kind):
    images = files if kind == "files" else None
    made = batches(images, shuffle=True, drop_last=True, augment=AUGMENT, shard=(1, 2))
    ordered = made.in_order(7)
    assert torch.equal(torch.cat([index for _, _, index in ordered.epoch(2)]), torch.arange(22))
    assert_same(ordered.epoch(2), batches(images, 7, augment=AUGMENT).epoch(2))
    assert (made.batch_size, made.shuffle, made.drop_last, made.shard) == (4, True, True, (1, 2))


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.floats(0, 1), min_size=3, max_size=3),
    st.lists(st.floats(1e-6, 0.5), min_size=3, max_size=3),
    st.booleans(),
)
def test_every_pixel_value_comes_back_exactly(mean, std, channels_last):
    pixels = torch.arange(256, dtype=torch.uint8).reshape(1, 1, 16, 16).expand(2, 3, 16, 16)
    made = batches(mean=mean, std=std, channels_last=channels_last)
    assert torch.equal(made.pixels(made.normalised(pixels)), pixels)


def test_the_pixels_of_a_batch_are_those_stored():
    images, made = arrays(), batches()
    for x, _, index in made.epoch():
        assert torch.equal(made.normalised(images.images[index]), x)
        assert torch.equal(made.pixels(x), images.images[index])


def test_augmented_images_come_back_from_their_pixels_to_the_bit():
    made = batches(augment=AUGMENT, shuffle=True)
    for x, _, _ in made.epoch(1):
        assert torch.equal(made.normalised(made.pixels(x)), x)


# ---------------------------------------------------------------------- orders


def test_without_shuffle_the_order_is_that_of_the_split():
    order = torch.cat([index for _, _, index in batches()])
    assert torch.equal(order, torch.arange(22))


def test_order_and_augmentation_change_with_the_epoch_and_with_the_seed():
    def first(**options):
        key = options.pop("key", 0)
        return next(batches(shuffle=True, augment=AUGMENT, **options).epoch(key))

    same, again, epoch, seed = first(), first(), first(key=1), first(seed=2)
    assert torch.equal(same[0], again[0])
    assert not torch.equal(same[2], epoch[2])
    assert not torch.equal(same[2], seed[2])
    unshuffled = batches(augment=AUGMENT)
    assert not torch.equal(next(unshuffled.epoch(0))[0], next(unshuffled.epoch(1))[0])


@pytest.mark.parametrize("workers", [0, 2])
def test_no_global_random_state_is_touched(files, workers):
    torch_state, numpy_state = torch.get_rng_state(), np.random.get_state()[1].copy()
    for images in (files, arrays()):
        list(batches(images, shuffle=True, augment=AUGMENT, workers=workers).epoch())
    assert torch.equal(torch_state, torch.get_rng_state())
    assert np.array_equal(numpy_state, np.random.get_state()[1])


def test_the_stored_images_are_not_changed():
    images = arrays()
    list(batches(images, augment=AUGMENT).epoch())
    assert torch.equal(images.images, arrays().images)


def test_channels_last_changes_the_memory_format_alone():
    usual, last = next(batches().epoch())[0], next(batches(channels_last=True).epoch())[0]
    assert last.is_contiguous(memory_format=torch.channels_last)
    assert usual.is_contiguous()
    assert torch.equal(usual, last)


@pytest.mark.parametrize("workers", [0, 2])
def test_an_unreadable_image_is_named_inside_a_worker_too(files, tmp_path, workers):
    (tmp_path / "broken.png").write_bytes(b"not an image")
    paths = [str(files.root / path) for path in files.paths[:7]] + [str(tmp_path / "broken.png")]
    images = ImageFiles(paths, torch.zeros(8, dtype=torch.int64), channels=3, size=(8, 8))
    with pytest.raises(DataError, match=r"^cannot read the image \S*broken\.png") as caught:
        list(batches(images, workers=workers).epoch())
    assert "Traceback" not in str(caught.value)


def test_a_loader_process_that_dies_is_reported_with_a_way_out(files, monkeypatch):
    monkeypatch.setattr(ImageFiles, "gather", lambda self, indices: os._exit(1))
    with pytest.raises(DataError, match=r"a loader process died.*data\.workers=0"):
        list(batches(files, workers=1).epoch())


def test_an_epoch_can_be_left_early(files):
    for _ in batches(files, workers=2).epoch():
        break
    assert len(list(batches(files, workers=2).epoch())) == 6


def test_what_makes_no_batches_is_refused():
    with pytest.raises(DataError, match="empty split"):
        batches(arrays().subset(torch.tensor([], dtype=torch.int64)))
    with pytest.raises(DataError, match="a value for each of the 3 channels"):
        batches(mean=[0.5])
    with pytest.raises(ValueError, match="start=7 lies outside the 6 steps"):
        batches().epoch(0, 7)


@pytest.mark.parametrize("key", ["crop", "cutout"])
def test_an_augmentation_larger_than_the_images_is_refused_by_its_key(key):
    assert len(list(batches(augment=AugmentConfig(**{key: 8})))) == 6
    with pytest.raises(DataError, match=rf"data\.augment\.{key}=9 is larger than the images.*has 8 pixels"):
        batches(augment=AugmentConfig(**{key: 9}))
