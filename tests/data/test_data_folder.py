import numpy as np
import pytest
import torch
from PIL import Image

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
