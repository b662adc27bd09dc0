import torch

from lwexplain.data.dataset import ImageArrays
from lwexplain.data.pixels import thumbnails


def test_thumbnails_are_at_most_64_pixels_and_keep_their_order():
    images = torch.zeros(3, 1, 128, 96, dtype=torch.uint8)
    images[2] = 255
    small = thumbnails(ImageArrays(images, torch.zeros(3, dtype=torch.int64)), torch.tensor([2, 0]))
    assert small.shape == (2, 64, 48, 1)
    assert small[0].min() == 255
    assert small[1].max() == 0
