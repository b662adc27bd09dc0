import torch

from lwexplain.data.dataset import ImageArrays
from lwexplain.data.pixels import colours_to_show, thumbnails, to_pixels


def test_thumbnails_are_at_most_64_pixels_and_keep_their_order():
    images = torch.zeros(3, 1, 128, 96, dtype=torch.uint8)
    images[2] = 255
    small = thumbnails(ImageArrays(images, torch.zeros(3, dtype=torch.int64)), torch.tensor([2, 0]))
    assert small.shape == (2, 64, 48, 1)
    assert small[0].min() == 255
    assert small[1].max() == 0


def test_normalised_images_are_shown_in_true_colours_where_mean_and_std_are_known():
    pixels = torch.randint(0, 256, (5, 3, 6, 7), generator=torch.Generator().manual_seed(1)).to(torch.uint8)
    mean, std = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
    images = (pixels / 255 - torch.tensor(mean)[:, None, None]) / torch.tensor(std)[:, None, None]
    shown = to_pixels(images, mean, std)
    assert (shown == pixels.permute(0, 2, 3, 1).numpy()).all()
    assert (to_pixels((pixels / 255 - 0.5) / 0.25, [0.5], [0.25]) == shown).all()


def test_images_from_0_to_1_are_shown_as_they_are_and_others_stretched_with_a_note():
    images = torch.tensor([0.0, 0.2, 1.0]).reshape(1, 1, 1, 3)
    *colours, note = colours_to_show(images)
    assert to_pixels(images, *colours).ravel().tolist() == [0, 51, 255]
    assert note == ""
    *colours, note = colours_to_show(images * 4 - 2)
    assert to_pixels(images * 4 - 2, *colours).ravel().tolist() == [0, 51, 255]
    assert "values from -2 to 2 were stretched; pass mean and std" in note
    constant = torch.full((1, 1, 2, 2), 7.0)
    *colours, _ = colours_to_show(constant)
    assert to_pixels(constant, *colours).max() == 0
