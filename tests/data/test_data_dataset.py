import numpy as np
import pytest
import torch
from PIL import Image

from lwexplain.data.dataset import DATASETS, DataSplits, ImageArrays, ImageFiles
from lwexplain.data.image_file import decode_image
from lwexplain.errors import DataError, UnknownNameError


def arrays(count=6, channels=3):
    images = torch.arange(count * channels * 4).reshape(count, channels, 2, 2).to(torch.uint8)
    return ImageArrays(images, torch.arange(count) % 2)


def files(folder, count=6):
    stored = arrays(count)
    for row, image in enumerate(stored.images):
        Image.fromarray(image.permute(1, 2, 0).numpy()).save(folder / f"{row}.png")
    return ImageFiles([f"{row}.png" for row in range(count)], stored.labels, channels=3, size=(2, 2), root=folder)


def test_files_hold_what_arrays_hold(tmp_path):
    stored, read = arrays(), files(tmp_path)
    chosen = torch.tensor([4, 0, 4])
    assert read.shape == stored.shape == (3, 2, 2)
    assert len(read) == len(stored) == 6
    assert torch.equal(read.gather(chosen), stored.gather(chosen))
    assert torch.equal(read.subset(chosen).gather(torch.arange(3)), stored.subset(chosen).images)
    assert torch.equal(read.subset(chosen).labels, stored.subset(chosen).labels)
    assert torch.equal(read.load().images, stored.images)


def test_the_fingerprint_of_arrays_changes_with_a_pixel_a_label_or_the_order():
    base = arrays().fingerprint()
    assert arrays().fingerprint() == base
    pixel = arrays()
    pixel.images[0, 0, 0, 0] += 1
    label = arrays()
    label.labels[0] = 1
    turned = arrays().subset(torch.arange(5, -1, -1))
    assert len({base, pixel.fingerprint(), label.fingerprint(), turned.fingerprint()}) == 4


def test_the_fingerprint_of_files_does_not_depend_on_where_the_folder_lies(tmp_path):
    one, two = tmp_path / "one", tmp_path / "two"
    one.mkdir()
    two.mkdir()
    first, second = files(one), files(two)
    assert first.fingerprint() == second.fingerprint()
    Image.new("RGB", (2, 2), (1, 2, 3)).save(two / "3.png")
    assert first.fingerprint() != second.fingerprint()


def test_a_missing_image_is_named(tmp_path):
    read = files(tmp_path)
    (tmp_path / "3.png").unlink()
    for use in (read.load, read.fingerprint, lambda: read.gather(torch.tensor([3]))):
        with pytest.raises(DataError, match=r"3\.png"):
            use()


def test_a_truncated_image_is_named(tmp_path):
    path = tmp_path / "cut.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 40, 3), dtype=np.uint8)).save(path)
    path.write_bytes(path.read_bytes()[:2000])
    with pytest.raises(DataError, match=r"cannot read the image .*cut\.png"):
        decode_image(path, 3, (40, 40), resize=False)


def test_an_image_of_another_size_asks_for_image_size(tmp_path):
    Image.new("RGB", (5, 4)).save(tmp_path / "a.png")
    with pytest.raises(DataError, match=r"a\.png is 4x5 pixels, others are 4x4; set data\.image_size"):
        decode_image(tmp_path / "a.png", 3, (4, 4), resize=False)
    assert decode_image(tmp_path / "a.png", 3, (4, 4), resize=True).shape == (3, 4, 4)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK"])
def test_every_usual_mode_is_read_as_grey_and_as_colour(tmp_path, mode):
    path = tmp_path / "image.tif"
    Image.new("RGB", (4, 4), (255, 255, 255)).convert("L" if mode in ("1", "LA") else "RGB").convert(mode).save(path)
    for channels in (1, 3):
        image = decode_image(path, channels, (4, 4), resize=False)
        assert image.shape == (channels, 4, 4)
        assert image.dtype == torch.uint8
        assert torch.all(image == 255)


def test_sixteen_bit_grey_keeps_its_high_byte(tmp_path):
    Image.fromarray(np.full((4, 4), 0x1234, dtype=np.uint16)).save(tmp_path / "deep.png")
    assert torch.all(decode_image(tmp_path / "deep.png", 1, (4, 4), resize=False) == 0x12)


def test_floating_point_pixels_are_refused(tmp_path):
    Image.new("F", (4, 4)).save(tmp_path / "float.tif")
    with pytest.raises(DataError, match=r"float\.tif holds floating-point"):
        decode_image(tmp_path / "float.tif", 1, (4, 4), resize=False)


def test_arrays_of_the_wrong_type_or_length_are_refused():
    with pytest.raises(DataError, match=r"uint8 of shape \(N, C, H, W\).*float32"):
        ImageArrays(torch.zeros(2, 1, 4, 4), torch.zeros(2, dtype=torch.int64))
    with pytest.raises(DataError, match=r"labels must be int64 of shape \(2,\)"):
        ImageArrays(torch.zeros(2, 1, 4, 4, dtype=torch.uint8), torch.zeros(3, dtype=torch.int64))
    with pytest.raises(DataError, match="2 image files but 3 labels"):
        ImageFiles(["a", "b"], torch.zeros(3, dtype=torch.int64), channels=1, size=(4, 4))


def test_training_does_not_see_the_test_split():
    splits = DataSplits("x", ["a", "b"], arrays(), arrays(), arrays(), [0.0] * 3, [1.0] * 3, "f", 6)
    assert splits.for_training().test is None
    assert splits.test is not None
    assert splits.for_training().num_classes == 2
    assert splits.for_training().shape == (3, 2, 2)


def test_all_data_sets_are_registered_and_described():
    expected = {"digits", "mnist", "fashion_mnist", "kmnist", "emnist", "cifar10", "cifar100", "svhn", "stl10"}
    assert expected | {"folder", "synthetic"} <= set(DATASETS.names())
    assert all(DATASETS.summary(name) for name in DATASETS)


def test_a_misspelt_data_set_or_option_is_answered_with_the_nearest_name():
    from lwexplain.config import DataConfig

    with pytest.raises(UnknownNameError, match="did you mean 'digits'"):
        DATASETS.create("digit", DataConfig())
    with pytest.raises(UnknownNameError, match="did you mean 'difficulty'"):
        DATASETS.create("synthetic", DataConfig(), dificulty=0.5)
