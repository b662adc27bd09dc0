"""A folder of images: one sub-folder a class, optionally below ``train/`` and ``test/``."""

import os
from pathlib import Path

import torch
from PIL import Image

from lwexplain.config import DataConfig
from lwexplain.data.dataset import DATASETS, GREY_MODES, ImageFiles, Source
from lwexplain.errors import DataError

EXTENSIONS = (".png", ".jpg", ".jpeg", ".bmp", ".webp", ".tif", ".tiff", ".ppm", ".pgm")
SAMPLED = 1000  # headers read to find the format


@DATASETS.register("folder")
def folder(config: DataConfig) -> Source:
    """Your own images: root/CLASS/*.png, or root/train/CLASS/* and root/test/CLASS/*.

    Images may lie deeper in a class folder; hidden files, other file types and other folders beside train/
    and test/ are left out. Grey where all images are (judged by the headers of up to 1,000, evenly spaced),
    else colour, unless ``channels`` says which. Images of several sizes need ``image_size``, which does not
    keep the aspect ratio.
    Raises DataError for a missing root, fewer than two classes, an empty class, a test class that train
    lacks, several sizes without ``image_size``, and an image that cannot be read.
    """
    if config.root is None:
        raise DataError("data set 'folder' needs data.root=FOLDER with one sub-folder of images a class")
    root = config.root.expanduser()
    if not root.is_dir():
        raise DataError(f"no folder {root}; set data.root to the folder that holds the class folders")
    split = bool(_class_folders(root / "train"))
    if not split and _class_folders(root / "test"):
        raise DataError(f"{root} has class folders in test/ but none in train/; put the training images there")
    train_root = root / "train" if split else root
    classes = _class_folders(train_root)
    if len(classes) < 2:
        raise DataError(
            f"{train_root} has {len(classes)} class folder{'' if len(classes) == 1 else 's'}; "
            "a classifier needs at least 2, each holding the images of one class"
        )
    train = _files(root, train_root, classes, classes)
    test: list[tuple[str, int]] = []
    if split and (root / "test").is_dir():
        test_classes = _class_folders(root / "test")
        unknown = [name for name in test_classes if name not in classes]
        if unknown:
            raise DataError(f"{root / 'test'} has class {unknown[0]!r}, which {train_root} lacks")
        if not test_classes:
            raise DataError(f"{root / 'test'} has no class folders; fill it, or remove it")
        test = _files(root, root / "test", test_classes, classes)

    grey, size = _format(root, [path for path, _ in train + test], config.image_size)

    def images(part: list[tuple[str, int]]) -> ImageFiles:
        return ImageFiles(
            [path for path, _ in part],
            torch.tensor([label for _, label in part], dtype=torch.int64),
            channels=config.channels or (1 if grey else 3),
            size=size,
            resize=config.image_size is not None,
            root=root,
        )

    return Source("folder", classes, images(train), images(test) if test else None)


def _class_folders(root: Path) -> list[str]:
    if not root.is_dir():
        return []
    try:
        return sorted(entry.name for entry in root.iterdir() if entry.is_dir() and not entry.name.startswith("."))
    except OSError as error:
        raise DataError(f"cannot read the folder {root}: {error.strerror}") from None


def _files(root: Path, part: Path, folders: list[str], classes: list[str]) -> list[tuple[str, int]]:
    found = []
    for name in folders:
        paths = _image_files(part / name)
        if not paths:
            raise DataError(
                f"class folder {part / name} holds no images ({', '.join(EXTENSIONS)}); fill it or remove it"
            )
        label = classes.index(name)
        found += [(path.relative_to(root).as_posix(), label) for path in paths]
    return found


def _image_files(top: Path) -> list[Path]:
    def refuse(error: OSError) -> None:
        raise DataError(f"cannot read the folder {error.filename}: {error.strerror}")

    found = []
    for parent, folders, names in os.walk(top, onerror=refuse, followlinks=False):
        folders[:] = [name for name in folders if not name.startswith(".")]
        for name in names:
            if name.lower().endswith(EXTENSIONS) and not name.startswith("."):
                found.append(Path(parent, name))
    return sorted(found)


def _format(root: Path, paths: list[str], image_size: int | None) -> tuple[bool, tuple[int, int]]:
    """Whether all images are grey, and their (height, width), from the headers of a sample."""
    count = min(SAMPLED, len(paths))
    grey, first = True, None
    for path in (paths[step * len(paths) // count] for step in range(count)):
        try:
            with Image.open(root / path) as image:
                mode, size = image.mode, (image.height, image.width)
        except Exception as error:  # damaged files make the decoders raise nearly anything
            raise DataError(f"cannot read the image {root / path}: {error}; replace or remove the file") from None
        grey = grey and mode in GREY_MODES
        first = first or (path, size)
        if size != first[1] and image_size is None:
            raise DataError(
                f"images in {root} differ in size: {first[0]} is {first[1][0]}x{first[1][1]}, {path} is "
                f"{size[0]}x{size[1]} pixels; set data.image_size to bring all to one size"
            )
    assert first is not None
    return grey, (image_size, image_size) if image_size else first[1]
