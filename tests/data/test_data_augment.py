import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lwexplain.config import AugmentConfig
from lwexplain.data.augment import Draws, augment_batch, cutout, random_crop, random_flip


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def draws(total=16, seed=0, rows=slice(None)):
    return Draws(generator(seed), total, rows)


def numbered(batch=16, channels=2, height=6, width=5, dtype=torch.uint8):
    """Images whose pixels are all different and none zero, so that a window is recognised by its content."""
    one = torch.arange(1, channels * height * width + 1).reshape(1, channels, height, width)
    return one.expand(batch, -1, -1, -1).to(dtype).contiguous()


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 4), st.integers(0, 1000))
def test_a_crop_is_a_window_of_the_zero_padded_image(padding, seed):
    x = numbered()
    out = random_crop(x, padding, draws(seed=seed))
    corner = torch.randint(0, 2 * padding + 1, (2, len(x)), generator=generator(seed))
    for image, cropped, top, left in zip(x, out, *corner.tolist(), strict=True):
        padded = torch.zeros(2, 6 + 2 * padding, 5 + 2 * padding, dtype=torch.uint8)
        padded[:, padding:-padding, padding:-padding] = image
        assert torch.equal(cropped, padded[:, top : top + 6, left : left + 5])


def test_every_place_of_a_crop_occurs():
    x = numbered(batch=600)
    assert len(random_crop(x, 1, draws(600)).flatten(1).unique(dim=0)) == 9


def test_about_half_of_the_images_are_mirrored_and_the_others_kept():
    x = numbered(batch=1000)
    out = random_flip(x, draws(1000))
    mirrored = (out == x.flip(3)).flatten(1).all(1)
    kept = (out == x).flatten(1).all(1)
    assert torch.all(mirrored ^ kept)
    assert 420 < mirrored.sum() < 580


@pytest.mark.parametrize("side", [1, 2, 3, 5])
def test_cutout_blanks_one_rectangle_no_larger_than_its_side(side):
    x = numbered(batch=200)
    fill = torch.tensor([200, 201])
    out = cutout(x, side, draws(200), fill)
    blank = out != x
    assert torch.equal(blank[:, 0], blank[:, 1])
    assert torch.all(out[:, 0][blank[:, 0]] == 200)
    assert torch.all(out[:, 1][blank[:, 1]] == 201)
    rows, columns = blank[:, 0].any(2).sum(1), blank[:, 0].any(1).sum(1)
    assert torch.equal(rows * columns, blank[:, 0].sum((1, 2)))
    assert int(rows.min()) >= 1
    assert int(rows.max()) == int(columns.max()) == side


def test_a_cutout_wider_than_the_image_blanks_what_it_covers():
    out = cutout(numbered(batch=4), 100, draws(4))
    assert torch.all(out == 0)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
def test_shape_and_dtype_stay_and_the_input_is_not_changed(dtype):
    x = numbered(dtype=dtype)
    copy = x.clone()
    out = augment_batch(x, AugmentConfig(crop=2, flip=True, cutout=3), draws())
    assert out.shape == x.shape
    assert out.dtype == dtype
    assert torch.equal(x, copy)


def test_the_same_generator_state_gives_the_same_batch_and_the_global_one_is_untouched():
    config = AugmentConfig(crop=2, flip=True, cutout=3)
    before = torch.get_rng_state()
    assert torch.equal(
        augment_batch(numbered(), config, draws(seed=3)), augment_batch(numbered(), config, draws(seed=3))
    )
    assert torch.equal(before, torch.get_rng_state())


def test_no_augmentation_leaves_the_batch_as_it_is():
    assert torch.equal(augment_batch(numbered(), AugmentConfig(), draws()), numbered())


def test_a_part_of_a_batch_is_changed_as_in_the_whole_batch():
    config = AugmentConfig(crop=2, flip=True, cutout=3)
    whole = augment_batch(numbered(), config, draws())
    for rows in (slice(0, 5), slice(5, 16)):
        assert torch.equal(augment_batch(numbered()[rows], config, draws(rows=rows)), whole[rows])
