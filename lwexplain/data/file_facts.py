"""What is known of the image files of a data set before they are decoded, and the rules that follow for all of them."""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from lwexplain.data.image_file import Reading, has_alpha, opened_image, spell, with_alpha
from lwexplain.errors import DataError

SHADES = 8
"""Grey levels are counted in so many equal steps."""

VISIBLE = 32
"""Alpha from which on a pixel shows enough to be seen."""

BACKGROUNDS = (255, 0, 128, 64, 192)
"""Grey levels that may lie behind transparent images, by preference."""

FEWEST_LEVELS = 64
"""Of 256: fewer levels of brightness are too few to call it the same picture."""


class FileFacts(NamedTuple):
    """One image file: SHA-256 of its bytes, Pillow's mode, its size in pixels, and what decides how it is read.

    ``lowest`` and ``highest`` pixel of grey images of more than 8 bits (``deep``) and of colour images of 16 bits, of
    which Pillow keeps the upper 8 (``cut``). ``clear``: some pixels are transparent; then bit b of ``shades`` says
    whether visible pixels have a brightness in step b of ``SHADES``.
    """

    digest: str
    mode: str
    height: int
    width: int
    lowest: int = 0
    highest: int = 255
    cut: bool = False
    clear: bool = False
    shades: int = 0

    @property
    def deep(self) -> bool:
        return self.mode.startswith("I")


def examine_file(path: Path) -> FileFacts:
    """The facts of one file; raises DataError that names it."""
    with opened_image(path) as image:
        with open(path, "rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        facts = FileFacts(digest, image.mode, image.height, image.width)
        cut = not facts.deep and any(";16" in str(tile) or ";12" in str(tile) for tile in getattr(image, "tile", ()))
        if facts.deep or cut:
            values = np.asarray(image)
            facts = facts._replace(lowest=int(values.min()), highest=int(values.max()), cut=cut)
        if has_alpha(image) and not facts.deep:
            clear, shades = _visible_shades(image)
            facts = facts._replace(clear=clear, shades=shades)
    return facts


def reading_of(paths: Sequence[str], facts: Sequence[FileFacts]) -> tuple[Reading, list[str]]:
    """How all files of a data set are read, and what there is to say about it.

    White is the largest value of as many bits as the brightest pixel of all deep images has (4095 for 12 bits, wherever
    they are kept), so that no image is stretched by itself. The background of transparent images is the grey level
    that what they show keeps away from most, over all of them. Raises DataError where grey levels would be lost.
    """
    notes = []
    deep = [place for place, fact in enumerate(facts) if fact.deep]
    white, background = 65535, BACKGROUNDS[0]
    if deep:
        lowest = min(deep, key=lambda place: facts[place].lowest)
        if facts[lowest].lowest < 0:
            raise DataError(
                f"{spell(paths[lowest])} holds negative pixels, down to {facts[lowest].lowest}; "
                "shift all images to 0 and above"
            )
        bits = max(8, max(facts[place].highest for place in deep).bit_length())
        white = 2**bits - 1
        notes.append(f"{_of(deep, facts)} have grey levels of up to {bits} bits: {white} is white, in all of them")
    cut = [place for place, fact in enumerate(facts) if fact.cut]
    if cut and (levels := max(facts[place].highest for place in cut) + 1) < FEWEST_LEVELS:
        raise DataError(
            f"{spell(paths[cut[0]])} has 16 bits a channel, of which the upper 8 are read; in none of these "
            f"{len(cut):,} images they hold more than {levels} levels: save them with 8 bits a channel"
        )
    clear = [place for place, fact in enumerate(facts) if fact.clear]
    if clear:
        background = _background([facts[place].shades for place in clear])
        notes.append(
            f"{_of(clear, facts)} are transparent in places, shown on grey level {background} (0 black, 255 white), "
            "which is the one least like what they show"
        )
    return Reading(white, background), notes


def _of(some: Sequence[int], facts: Sequence[FileFacts]) -> str:
    return f"{len(some):,} of {len(facts):,} images"


def _visible_shades(image: Image.Image) -> tuple[bool, int]:
    """Whether anything is transparent, and which steps of brightness at least 1 % of the visible pixels have."""
    picture = with_alpha(image)
    alpha = np.asarray(picture.getchannel("A"))
    if alpha.min() == 255:
        return False, 0
    visible = np.asarray(picture.convert("RGB").convert("L"))[alpha >= VISIBLE]
    counts = np.bincount(visible // (256 // SHADES), minlength=SHADES)
    return True, sum(1 << step for step in range(SHADES) if counts[step] > 0.01 * len(visible))


def _background(shades: Sequence[int]) -> int:
    """Of the possible backgrounds the one that the fewest images come near, near ones counting more."""
    width = 256 // SHADES
    images = [sum(one >> step & 1 for one in shades) for step in range(SHADES)]

    def likeness(grey: int) -> float:
        gaps = [max(0, abs(grey - (step + 0.5) * width) - width / 2) for step in range(SHADES)]
        return sum(count * max(0.0, 1 - gap / 96) for count, gap in zip(images, gaps, strict=True))

    return min(BACKGROUNDS, key=lambda grey: (likeness(grey), BACKGROUNDS.index(grey)))
