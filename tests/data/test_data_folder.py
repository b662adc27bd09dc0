import os

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.datasets import ImageFolder

from lwexplain.config import DataConfig
from lwexplain.data.folder import folder
from lwexplain.data.load import load_data
from lwexplain.errors import DataError


def write_image(path, value=0, size=(6, 6), mode="RGB"):
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(value).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    Image.fromarray(pixels).convert(mode).save(path)


def write_classes(root, names=("cat", "dog"), count=5, **options):
    for row, name in enumerate(names):
        for number in range(count):
            write_image(root / name / f"{number}.png", row * 100 + number, **options)


def config(root, **fields):
    return DataConfig(name="folder", root=root, **fields)


def test_class_folders_become_classes_in_alphabetical_order(tmp_path):
    write_classes(tmp_path, ["dog", "cat", "owl"])
    source = folder(config(tmp_path))
    assert source.classes == ["cat", "dog", "owl"]
    assert torch.bincount(source.train.labels).tolist() == [5, 5, 5]
    assert source.test is None
    assert source.train.shape == (3, 6, 6)
    expected = np.asarray(Image.open(tmp_path / "cat" / "0.png"))
    assert np.array_equal(source.train.gather(torch.tensor([0]))[0].permute(1, 2, 0), expected)


def test_train_and_test_folders_become_the_splits(tmp_path):
    write_classes(tmp_path / "train")
    write_classes(tmp_path / "test", ["dog"], count=2)
    source = folder(config(tmp_path))
    assert (len(source.train), len(source.test)) == (10, 2)
    assert source.test.labels.tolist() == [1, 1]


def test_a_train_folder_alone_has_no_test_set(tmp_path):
    write_classes(tmp_path / "train")
    assert folder(config(tmp_path)).test is None


def test_images_deeper_down_count_and_hidden_or_other_files_do_not(tmp_path):
    write_classes(tmp_path)
    write_image(tmp_path / "cat" / "more" / "deep.JPG", 7)
    write_image(tmp_path / "cat" / ".hidden.png", 8)
    write_image(tmp_path / "cat" / ".thumbnails" / "x.png", 9)
    write_image(tmp_path / ".cache" / "x.png", 9)
    (tmp_path / "cat" / "notes.txt").write_text("x")
    source = folder(config(tmp_path))
    assert source.classes == ["cat", "dog"]
    assert len(source.train) == 11


def test_grey_images_give_one_channel_and_a_colour_image_among_them_three(tmp_path):
    write_classes(tmp_path, mode="L")
    assert folder(config(tmp_path)).train.shape == (1, 6, 6)
    assert folder(config(tmp_path, channels=3)).train.shape == (3, 6, 6)
    write_image(tmp_path / "cat" / "colour.png", mode="RGB")
    assert folder(config(tmp_path)).train.shape == (3, 6, 6)
    assert folder(config(tmp_path, channels=1)).train.shape == (1, 6, 6)


def test_images_that_are_not_square_keep_their_shape(tmp_path):
    write_classes(tmp_path, size=(7, 5))
    assert folder(config(tmp_path)).train.gather(torch.arange(2)).shape == (2, 3, 5, 7)


def test_a_missing_root_is_asked_for(tmp_path):
    with pytest.raises(DataError, match=r"data\.root=FOLDER"):
        folder(config(None))
    with pytest.raises(DataError, match=r"no folder .*nowhere; set data\.root"):
        folder(config(tmp_path / "nowhere"))


def test_one_class_is_refused(tmp_path):
    write_classes(tmp_path, ["cat"])
    with pytest.raises(DataError, match="has 1 class folder; a classifier needs at least 2"):
        folder(config(tmp_path))


def test_an_empty_class_is_named(tmp_path):
    write_classes(tmp_path)
    (tmp_path / "owl").mkdir()
    with pytest.raises(DataError, match=r"class folder .*owl holds no images"):
        folder(config(tmp_path))


def test_sizes_that_differ_ask_for_image_size(tmp_path):
    write_classes(tmp_path)
    write_image(tmp_path / "dog" / "large.png", size=(9, 8))
    with pytest.raises(DataError, match=r"0\.png is 6x6, dog/large\.png is 8x9 pixels; set data\.image_size"):
        folder(config(tmp_path))
    assert folder(config(tmp_path, image_size=4)).train.gather(torch.arange(11)).shape == (11, 3, 4, 4)


def test_a_test_class_that_train_lacks_is_named(tmp_path):
    write_classes(tmp_path / "train")
    write_classes(tmp_path / "test", ["cat", "owl"])
    with pytest.raises(DataError, match=r"class 'owl', which .*train lacks"):
        folder(config(tmp_path))


def test_a_test_folder_without_a_train_folder_is_refused(tmp_path):
    write_classes(tmp_path)
    write_classes(tmp_path / "test")
    with pytest.raises(DataError, match="test/ but none in train/"):
        folder(config(tmp_path))


def test_an_unreadable_image_is_named(tmp_path):
    write_classes(tmp_path)
    (tmp_path / "dog" / "3.png").write_bytes(b"not an image")
    with pytest.raises(DataError, match=r"cannot read the image .*dog/3\.png"):
        folder(config(tmp_path))


@pytest.mark.parametrize("resident", [True, False])
def test_a_truncated_image_is_named_when_the_data_is_loaded(tmp_path, resident):
    write_classes(tmp_path, size=(40, 40))
    whole = (tmp_path / "dog" / "3.png").read_bytes()
    for path in tmp_path.glob("dog/*.png"):
        path.write_bytes(whole[:3000])
    with pytest.raises(DataError, match=r"cannot read the image .*dog/\d\.png"):
        load_data(config(tmp_path, resident=resident), 0)


# ---------------------------------------------------------------------- links, names and paths


def both_counts(root):
    data = load_data(config(root), 0)
    return sum(len(part) for part in (data.train, data.val, data.test)), len(ImageFolder(root)), data.notes


def test_links_to_folders_and_files_are_followed_as_torchvision_does(tmp_path):
    write_classes(tmp_path / "data")
    write_classes(tmp_path / "disk", count=7)
    for name in ("cat", "dog"):
        os.symlink(tmp_path / "disk" / name, tmp_path / "data" / name / "more")
    os.symlink(tmp_path / "disk" / "cat", tmp_path / "data" / "owl")
    os.symlink(tmp_path / "disk" / "dog" / "1.png", tmp_path / "data" / "dog" / "one_more.png")
    os.symlink(os.path.join("..", "..", "disk", "dog"), tmp_path / "data" / "dog" / "twice")
    found, expected, notes = both_counts(tmp_path / "data")
    assert found == expected == 5 + 7 + 5 + 7 + 7 + 1 + 7
    assert notes == ()


def test_the_root_itself_may_be_a_link(tmp_path):
    write_classes(tmp_path / "data")
    os.symlink(tmp_path / "data", tmp_path / "link")
    assert both_counts(tmp_path / "link")[:2] == (10, 10)


@pytest.mark.parametrize("target", ["..", ".", os.path.join("..", "dog")])
def test_a_link_that_leads_back_is_not_followed_for_ever(tmp_path, target):
    write_classes(tmp_path)
    os.symlink(target, tmp_path / "cat" / "back")
    os.symlink(os.path.join("..", "cat"), tmp_path / "dog" / "back")
    data = load_data(config(tmp_path), 0)
    assert any("leads back to a folder above it and was not followed" in note for note in data.notes)
    assert len(data.train) < 100


def test_a_link_to_itself_and_one_to_nothing_are_no_folders(tmp_path):
    write_classes(tmp_path)
    os.symlink("self", tmp_path / "cat" / "self")
    os.symlink(tmp_path / "nowhere", tmp_path / "cat" / "nothing")
    assert len(folder(config(tmp_path)).train) == 10
    os.symlink(tmp_path / "nowhere", tmp_path / "cat" / "gone.png")
    with pytest.raises(DataError, match=r"cannot read the image .*gone\.png: No such file"):
        folder(config(tmp_path))


def test_names_that_are_not_utf8_are_spelled_out(tmp_path):
    names = [b"a", b"caf\xe9", "sch\u00f6n".encode()]
    write_classes(tmp_path, [os.fsdecode(name) for name in names])
    write_image(tmp_path / "a" / os.fsdecode(b"\xff\xfe.png"), 3)
    source = folder(config(tmp_path))
    assert source.classes == ["a", "caf\\xe9", "sch\u00f6n"]
    assert all(name.encode() for name in source.classes)
    data = load_data(config(tmp_path, classes=["caf\\xe9", "a"]), 0)
    assert data.classes == ["caf\\xe9", "a"]
    assert len(data.fingerprint) > 64
    (tmp_path / "a" / os.fsdecode(b"\xe9.png")).write_bytes(b"no image")
    with pytest.raises(DataError, match=r"cannot read the image .*\\xe9\.png") as caught:
        folder(config(tmp_path))
    assert str(caught.value).encode()


def test_two_folders_that_read_alike_are_refused(tmp_path):
    write_classes(tmp_path, [os.fsdecode(b"caf\xe9"), "caf\\xe9"])
    with pytest.raises(DataError, match="two class folders that read"):
        folder(config(tmp_path))


@pytest.mark.parametrize("name", ["x" * 300, "a\0b", "x/" * 3000, "~nobody_of_this_name"])
def test_a_root_that_cannot_be_a_path_is_refused(name):
    for data_set in ("folder", "mnist", "cifar10"):
        with pytest.raises(DataError, match="cannot be looked into") as caught:
            load_data(DataConfig(name=data_set, root=name), 0)
        assert len(str(caught.value)) < 250


def test_a_root_that_is_a_file_is_refused(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(DataError, match="is no folder"):
        folder(config(tmp_path / "file"))


def test_a_relative_root_that_is_not_there_names_the_folder_it_is_looked_for_in(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError, match=rf"no folder images in {tmp_path}, where you are; set data\.root"):
        folder(config("images"))
