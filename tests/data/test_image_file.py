"""What an image file shows is kept: transparency, bits a channel, colour spaces; what cannot be kept is refused."""

import warnings

import numpy as np
import pytest
import torch
from PIL import Image

from lwexplain.config import DataConfig
from lwexplain.data.image_file import decode_image
from lwexplain.data.load import load_data
from lwexplain.errors import DataError

SIDE = 16
SHAPES = {"disc": (slice(4, 12), slice(4, 12)), "bar": (slice(7, 9), slice(0, 16))}


def folder_of(root, make, count=10, suffix="png", **options):
    """A folder of two classes, the images of which ``make(shape, number)`` gives."""
    for name, shape in SHAPES.items():
        (root / name).mkdir(parents=True)
        for number in range(count):
            make(shape, number).save(root / name / f"{number}.{suffix}", **options)
    return DataConfig(name="folder", root=root)


def mask(shape, value=255):
    alpha = np.zeros((SIDE, SIDE), np.uint8)
    alpha[shape] = value
    return alpha


def with_alpha(mode, grey, alpha):
    bands = [np.full_like(alpha, grey)] * (len(Image.new(mode, (1, 1)).getbands()) - 1)
    return Image.fromarray(np.dstack([*bands, alpha]), mode)


def palette_with_transparency(shape, grey):
    picture = Image.fromarray((mask(shape) > 0).astype(np.uint8), "P")
    picture.putpalette([grey] * 6)
    return picture


def classes_look_different(data):
    """Two means of classes, of images that are the same within a class."""
    parts = [part.images[part.labels == label].float() for part in (data.train, data.val) for label in (0, 1)]
    assert all(torch.equal(part, part[:1].expand_as(part)) for part in parts)
    return float((parts[0][0] - parts[1][0]).abs().max())


@pytest.mark.parametrize("grey", [0, 40, 127, 200, 255])
@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_what_alpha_alone_shows_is_kept_whatever_lies_beneath(tmp_path, mode, grey):
    data = load_data(folder_of(tmp_path, lambda shape, _: with_alpha(mode, grey, mask(shape))), 0)
    assert classes_look_different(data) >= 100
    assert "20 of 20 images are transparent in places" in data.notes[0]


@pytest.mark.parametrize("grey", [0, 128, 255])
def test_a_palette_that_differs_in_transparency_alone_is_kept(tmp_path, grey):
    config = folder_of(tmp_path, lambda shape, _: palette_with_transparency(shape, grey), transparency=bytes([0, 255]))
    assert classes_look_different(load_data(config, 0)) >= 100


@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_a_colour_that_stands_for_transparency_is_kept(tmp_path, mode):
    """Black is transparent, and what is not is as dark as may be."""
    colour = (0, 0, 0) if mode == "RGB" else 0
    config = folder_of(tmp_path, lambda shape, _: Image.fromarray(mask(shape, 2)).convert(mode), transparency=colour)
    assert classes_look_different(load_data(config, 0)) >= 100


def test_colour_hidden_under_full_transparency_does_not_come_through(tmp_path):
    def make(shape, number):
        picture = np.random.default_rng(number).integers(0, 256, (SIDE, SIDE, 4), dtype=np.uint8)
        picture[..., 3] = mask(shape)
        picture[shape][..., :3] = 30
        picture[(*shape, slice(0, 3))] = 30
        return Image.fromarray(picture, "RGBA")

    assert classes_look_different(load_data(folder_of(tmp_path, make), 0)) >= 100


def test_all_images_lie_on_one_background(tmp_path):
    """Dark ones and bright ones in one set: a background of its own for each would tell the classes apart."""

    def make(shape, number):
        return with_alpha("RGBA", 0 if shape == SHAPES["disc"] else 255, mask((slice(4, 12), slice(4, 12))))

    data = load_data(folder_of(tmp_path, make), 0)
    assert len(data.train.images[..., 0, 0].unique()) == 1


def test_half_transparent_pixels_are_mixed_with_the_background(tmp_path):
    data = load_data(folder_of(tmp_path, lambda shape, _: with_alpha("LA", 0, mask(shape, 128))), 0)
    assert data.train.images.unique().tolist() == [127, 255]


def test_opaque_images_with_an_alpha_channel_are_as_without(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (SIDE, SIDE, 4), dtype=np.uint8)
    pixels[..., 3] = 255
    Image.fromarray(pixels, "RGBA").save(tmp_path / "a.png")
    found = decode_image(tmp_path / "a.png", 3, (SIDE, SIDE), resize=False)
    assert np.array_equal(found.permute(1, 2, 0), pixels[..., :3])


@pytest.mark.parametrize("dtype", ["uint16", ">u2", "int32"])
@pytest.mark.parametrize("highest", [200, 255, 1023, 4095, 20_000, 65_535])
def test_grey_levels_of_any_depth_are_kept(tmp_path, dtype, highest):
    def make(shape, number):
        pixels = np.random.default_rng(number).integers(0, highest + 1, (SIDE, SIDE))
        pixels[0, 0] = highest
        return Image.fromarray(pixels.astype(dtype))

    data = load_data(folder_of(tmp_path, make, suffix="tif"), 0)
    assert len(data.train.images.unique()) > 120
    assert data.train.images.max() >= 127
    assert f"{max(255, 2 ** highest.bit_length() - 1)} is white, in all of them" in data.notes[0]


def test_a_dark_image_among_bright_ones_stays_dark(tmp_path):
    """The scale is that of the data set and not of each image."""

    def make(shape, number):
        return Image.fromarray(np.full((SIDE, SIDE), 4095 if number else 400, np.uint16))

    data = load_data(folder_of(tmp_path, make), 0)
    everything = torch.cat([part.images for part in (data.train, data.val, data.test)])
    assert sorted(everything[:, 0, 0, 0].unique().tolist()) == [25, 255]


def test_a_transparent_grey_level_of_16_bits_is_the_background(tmp_path):
    pixels = np.full((SIDE, SIDE), 1000, np.uint16)
    pixels[:4] = 60_000
    Image.fromarray(pixels).save(tmp_path / "a.png", transparency=1000)
    found = decode_image(tmp_path / "a.png", 1, (SIDE, SIDE), resize=False)[0]
    assert found[0, 0] == 233
    assert found[8, 8] == 255


def test_negative_pixels_are_refused(tmp_path):
    def make(shape, number):
        return Image.fromarray(np.full((SIDE, SIDE), number - 5, np.int32))

    with pytest.raises(DataError, match=r"tif holds negative pixels, down to -5"):
        load_data(folder_of(tmp_path, make, suffix="tif"), 0)


def test_sixteen_bit_colour_of_which_little_would_be_left_is_refused(tmp_path):
    """12 bits in 16, in colour: the upper byte has 16 levels."""
    import struct
    import zlib

    def chunk(kind, body):
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    def write(path, seed, high):
        pixels = np.random.default_rng(seed).integers(0, high, (SIDE, SIDE, 3)).astype(">u2")
        rows = b"".join(b"\0" + row.tobytes() for row in pixels)
        head = struct.pack(">IIBBBBB", SIDE, SIDE, 16, 2, 0, 0, 0)
        body = chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"\x89PNG\r\n\x1a\n" + body)

    for high, name in ((4096, "few"), (65536, "all")):
        for label in "ab":
            for number in range(5):
                write(tmp_path / name / label / f"{number}.png", number, high)
    with pytest.raises(DataError, match=r"16 bits a channel, of which the upper 8 are read; .* more than 16 levels"):
        load_data(DataConfig(name="folder", root=tmp_path / "few"), 0)
    data = load_data(DataConfig(name="folder", root=tmp_path / "all"), 0)
    assert len(data.train.images.unique()) > 200
    assert data.notes == ()


@pytest.mark.parametrize("mode", ["CMYK", "YCbCr", "1"])
def test_other_colour_spaces_show_the_same_picture(tmp_path, mode):
    ramp = np.tile(np.linspace(0, 255, SIDE).astype(np.uint8)[None, :, None], (SIDE, 1, 3))
    if mode == "1":
        ramp = np.where(ramp > 127, 255, 0).astype(np.uint8)
    picture = Image.fromarray(ramp).convert(mode) if mode != "1" else Image.fromarray(ramp).convert("1", dither=0)
    suffix = "png" if mode == "1" else "tif"
    picture.save(tmp_path / f"a.{suffix}")
    for channels in (1, 3):
        found = decode_image(tmp_path / f"a.{suffix}", channels, (SIDE, SIDE), resize=False).float()
        assert (found[0] - torch.tensor(ramp[..., 0]).float()).abs().max() <= 3


def test_an_image_of_more_pixels_than_is_safe_is_one_clear_error(tmp_path, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    for side in (40, 80):  # Pillow warns of the one and refuses the other
        config = folder_of(tmp_path / str(side), lambda shape, number, side=side: Image.new("L", (side, side), number))
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            with pytest.raises(DataError, match=r"has more than the 1,000 pixels .*; shrink it, or remove it"):
                load_data(config, 0)


def test_a_pipe_in_a_class_folder_does_not_block(tmp_path):
    import os

    config = folder_of(tmp_path, lambda shape, number: Image.new("L", (SIDE, SIDE), number))
    os.mkfifo(tmp_path / "disc" / "pipe.png")
    with pytest.raises(DataError, match=r"pipe\.png is no regular file"):
        load_data(config, 0)


def test_images_that_are_all_one_grey_are_refused(tmp_path):
    config = folder_of(tmp_path, lambda shape, number: Image.new("L", (SIDE, SIDE), 7))
    with pytest.raises(DataError, match=r"all \d+ training images are the same: each pixel is 7 of 255"):
        load_data(config, 0)


def test_a_class_of_blank_images_and_many_blank_ones_are_said(tmp_path):
    def make(shape, number):
        noise = np.random.default_rng(number).integers(0, 256, (SIDE, SIDE), dtype=np.uint8)
        return Image.fromarray(noise if shape == SHAPES["disc"] else np.full_like(noise, 9))

    data = load_data(folder_of(tmp_path, make), 0)
    assert data.notes[0] == "every training image of class 'bar' is of one colour all over"
    assert "of one colour all over" in data.notes[1]
    assert len(data.notes) == 2
