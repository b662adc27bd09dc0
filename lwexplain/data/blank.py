"""Images that show nothing: of one colour all over, which is what a wrong way of reading most often leaves."""

from collections.abc import Sequence

import torch
from torch import Tensor

from lwexplain.data.dataset import Images
from lwexplain.errors import DataError

CHUNK = 1024
MANY = 0.05
"""Share of the images from which on blank ones are worth a note."""


def blank_images(train: Images, rows: Tensor, classes: Sequence[str]) -> list[str]:
    """What there is to say of images of ``train``, those at ``rows``, that are of one colour.

    Raises DataError where every pixel of every image is the same: there is nothing to tell apart.
    """
    blank = torch.zeros(len(rows), dtype=torch.bool)
    lowest, highest = 255, 0
    for first in range(0, len(rows), CHUNK):
        pixels = train.gather(rows[first : first + CHUNK]).flatten(2)
        low, high = pixels.amin(2), pixels.amax(2)
        blank[first : first + CHUNK] = (low == high).all(1)
        lowest, highest = min(lowest, int(low.min())), max(highest, int(high.max()))
    if lowest == highest and len(rows) > 1:
        raise DataError(
            f"all {len(rows):,} training images are the same: each pixel is {lowest} of 255; look at a file, and at "
            "how it was saved (transparency, bits a channel)"
        )
    labels = train.labels[rows]
    notes = []
    empty = [name for label, name in enumerate(classes) if (labels == label).any() and blank[labels == label].all()]
    if empty:
        more = f" and {len(empty) - 3:,} more" if len(empty) > 3 else ""
        notes.append(f"every training image of class {', '.join(map(repr, empty[:3]))}{more} is of one colour all over")
    if int(blank.sum()) > MANY * len(rows):
        notes.append(f"{int(blank.sum()):,} of {len(rows):,} training images are of one colour all over")
    return notes
