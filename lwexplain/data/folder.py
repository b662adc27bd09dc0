"""A folder of images: one sub-folder a class, optionally below ``train/`` and ``test/``."""

import os
from collections.abc import Sequence
from pathlib import Path

import torch

from lwexplain.config import DataConfig
from lwexplain.data.dataset import DATASETS, ImageFiles, Source
from lwexplain.data.examination import examine_files
from lwexplain.data.file_facts import FileFacts
from lwexplain.data.image_file import GREY_MODES, spell
from lwexplain.data.root import existing_folder
from lwexplain.errors import DataError

EXTENSIONS = (".png", ".jpg", ".jpeg", ".bmp", ".webp", ".tif", ".tiff", ".ppm", ".pgm")


@DATASETS.register("folder")
def folder(config: DataConfig) -> Source:
    """Your own images: root/CLASS/*.png, or root/train/CLASS/* and root/test/CLASS/*.

    Images may lie deeper in a class folder, and links to files and folders are followed; hidden files, other file types
    and other folders beside train/ and test/ are left out. A class is named like its folder; bytes that are not UTF-8
    are spelled out. Grey where all images are, else colour, unless ``channels`` says which. Grey levels of more than 8
    bits are scaled alike in all images, transparent ones lie on the grey level least like what they show. Images of
    several sizes need ``image_size``, which does not keep the aspect ratio.
    Raises DataError for a missing root, fewer than two classes, an empty class, a test class that train
    lacks, several sizes without ``image_size``, and an image that cannot be read.
    """
    if config.root is None:
        raise DataError("data set 'folder' needs data.root=FOLDER with one sub-folder of images a class")
    root = existing_folder(config.root)
    folders = _Folders()
    split = bool(folders.of_classes(root / "train"))
    if not split and folders.of_classes(root / "test"):
        raise DataError(f"{spell(root)} has class folders in test/ but none in train/; put the training images there")
    train_root = root / "train" if split else root
    classes = folders.of_classes(train_root)
    if len(classes) < 2:
        raise DataError(
            f"{spell(train_root)} has {len(classes)} class folder{'' if len(classes) == 1 else 's'}; "
            "a classifier needs at least 2, each holding the images of one class"
        )
    train = folders.images(root, train_root, classes, classes)
    test: list[tuple[str, int]] = []
    if split and (root / "test").is_dir():
        test_classes = folders.of_classes(root / "test")
        unknown = [name for name in test_classes if name not in classes]
        if unknown:
            raise DataError(f"{spell(root / 'test')} has class {spell(unknown[0])!r}, which {spell(train_root)} lacks")
        if not test_classes:
            raise DataError(f"{spell(root / 'test')} has no class folders; fill it, or remove it")
        test = folders.images(root, root / "test", test_classes, classes)

    paths = [path for path, _ in train + test]
    facts = examine_files(root, paths)
    grey, size = _format(root, paths, facts, config.image_size)

    def images(part: list[tuple[str, int]], facts: list[FileFacts]) -> ImageFiles:
        return ImageFiles(
            [path for path, _ in part],
            torch.tensor([label for _, label in part], dtype=torch.int64),
            channels=config.channels or (1 if grey else 3),
            size=size,
            resize=config.image_size is not None,
            root=root,
            facts=facts,
        )

    held_out = images(test, facts[len(train) :]) if test else None
    names = _class_names(train_root, classes)
    return Source("folder", names, images(train, facts[: len(train)]), held_out, tuple(folders.notes))


class _Folders:
    """Reads folders, through links as well, and notes where a link leads back to where it came from."""

    def __init__(self) -> None:
        self.notes: list[str] = []

    def of_classes(self, root: Path) -> list[str]:
        if not root.is_dir():
            return []
        try:
            return sorted(entry.name for entry in root.iterdir() if entry.is_dir() and not entry.name.startswith("."))
        except OSError as error:
            raise DataError(f"cannot read the folder {spell(root)}: {error.strerror}") from None

    def images(self, root: Path, part: Path, folders: list[str], classes: list[str]) -> list[tuple[str, int]]:
        """Paths relative to ``root`` and labels of the images in the class folders of ``part``."""
        found = []
        for name in folders:
            paths = self._below(part / name)
            if not paths:
                raise DataError(
                    f"class folder {spell(part / name)} holds no images ({', '.join(EXTENSIONS)}); fill it or remove it"
                )
            label = classes.index(name)
            found += [(path.relative_to(root).as_posix(), label) for path in paths]
        return found

    def _below(self, top: Path, above: tuple[tuple[int, int], ...] = ()) -> list[Path]:
        """Image files at any depth below ``top``; ``above`` holds (device, inode) of the folders on the way."""
        try:
            status = top.stat()
            identity = (status.st_dev, status.st_ino)
            if identity in above:
                self.notes.append(f"{spell(top)} leads back to a folder above it and was not followed")
                return []
            found, folders = [], []
            with os.scandir(top) as entries:
                for entry in entries:
                    if entry.name.startswith("."):
                        continue
                    if _is_folder(entry):
                        folders.append(entry.name)
                    elif entry.name.lower().endswith(EXTENSIONS):
                        found.append(top / entry.name)
        except OSError as error:
            raise DataError(f"cannot read the folder {spell(top)}: {error.strerror}") from None
        for name in folders:
            found += self._below(top / name, (*above, identity))
        return sorted(found)


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself
        return False


def _class_names(root: Path, folders: list[str]) -> list[str]:
    names = [spell(name) for name in folders]
    twice = [name for name in names if names.count(name) > 1]
    if twice:
        raise DataError(f"{spell(root)} has two class folders that read {twice[0]!r}; rename the one that is not UTF-8")
    return names


def _format(
    root: Path, paths: Sequence[str], facts: Sequence[FileFacts], image_size: int | None
) -> tuple[bool, tuple[int, int]]:
    """Whether all images are grey, and their (height, width)."""
    first = facts[0]
    for path, fact in zip(paths, facts, strict=True):
        if (fact.height, fact.width) != (first.height, first.width) and image_size is None:
            raise DataError(
                f"images in {spell(root)} differ in size: {spell(paths[0])} is {first.height}x{first.width}, "
                f"{spell(path)} is {fact.height}x{fact.width} pixels; set data.image_size to bring all to one size"
            )
    size = (image_size, image_size) if image_size else (first.height, first.width)
    return all(fact.mode in GREY_MODES for fact in facts), size
