import gzip
import pickle
import urllib.error

import numpy as np
import pytest
import scipy.io
import torch
import torchvision.datasets

from lwexplain.config import DataConfig
from lwexplain.data.dataset import DATASETS
from lwexplain.data.load import channel_stats
from lwexplain.data.torchvision_sets import DEBIAN_FASHION_MNIST, MNIST_FILES
from lwexplain.errors import DataError

NAMES = ["mnist", "fashion_mnist", "kmnist", "emnist", "cifar10", "cifar100", "svhn", "stl10"]


def create(name, root=None, download=False, **options):
    config = DataConfig(name=name, root=root, download=download)
    return DATASETS.create(name, config, **options)


def idx_bytes(array):
    shape = b"".join(length.to_bytes(4, "big") for length in array.shape)
    return bytes((0, 0, 8, array.ndim)) + shape + array.astype(np.uint8).tobytes()


def write_idx_files(folder, names=MNIST_FILES, classes=10, first=0, compress=True):
    """20 training and 10 test images of 28x28 pixels; returns the training images."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    train, test = (rng.integers(0, 256, (count, 28, 28)) for count in (2 * classes, classes))
    content = [train, np.arange(2 * classes) % classes + first, test, np.arange(classes) + first]
    for name, array in zip(names, content, strict=True):
        if compress:
            (folder / f"{name}.gz").write_bytes(gzip.compress(idx_bytes(array)))
        else:
            (folder / name).write_bytes(idx_bytes(array))
    return torch.from_numpy(train).to(torch.uint8)


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setattr("lwexplain.data.torchvision_sets.DEBIAN_FASHION_MNIST", tmp_path / "none")
    return tmp_path / "home"


@pytest.mark.skipif(not DEBIAN_FASHION_MNIST.is_dir(), reason="Debian package dataset-fashion-mnist is not installed")
def test_fashion_mnist_of_debian_is_found_and_whole():
    source = create("fashion_mnist")
    assert (len(source.train), len(source.test)) == (60_000, 10_000)
    assert source.train.shape == (1, 28, 28)
    assert torch.bincount(source.train.labels).tolist() == [6000] * 10
    assert torch.bincount(source.test.labels).tolist() == [1000] * 10
    assert source.classes[source.train.labels[0]] == "Ankle boot"
    # the constants everyone normalises Fashion-MNIST with
    mean, std = channel_stats(source.train, torch.arange(60_000))
    assert mean == pytest.approx([0.2860], abs=1e-4)
    assert std == pytest.approx([0.3530], abs=1e-4)


@pytest.mark.parametrize("compress", [True, False])
@pytest.mark.parametrize("below", ["", "raw", "MNIST/raw"])
def test_idx_files_are_read_plain_or_gzipped_from_the_root_or_where_torchvision_puts_them(tmp_path, compress, below):
    train = write_idx_files(tmp_path / below, compress=compress)
    source = create("mnist", tmp_path)
    assert torch.equal(source.train.images[:, 0], train)
    assert source.test.labels.tolist() == list(range(10))


def test_without_a_root_the_cache_folder_is_used(home):
    write_idx_files(home / ".cache" / "lwexplain" / "FashionMNIST" / "raw")
    assert len(create("fashion_mnist").train) == 20


def test_files_are_read_as_torchvision_reads_them(tmp_path):
    write_idx_files(tmp_path / "MNIST" / "raw", compress=False)
    theirs = torchvision.datasets.MNIST(tmp_path)
    ours = create("mnist", tmp_path).train
    assert torch.equal(ours.images[:, 0], theirs.data)
    assert torch.equal(ours.labels, theirs.targets)


def test_emnist_letters_stand_upright_and_count_from_zero(tmp_path):
    names = [
        f"emnist-letters-{part}-{kind}-ubyte" for part in ("train", "test") for kind in ("images-idx3", "labels-idx1")
    ]
    train = write_idx_files(tmp_path, names, classes=26, first=1)
    source = create("emnist", tmp_path, split="letters")
    assert "".join(source.classes) == "abcdefghijklmnopqrstuvwxyz"
    assert source.test.labels.tolist() == list(range(26))
    assert torch.equal(source.train.images[0, 0], train[0].T)


def test_an_unknown_emnist_split_is_answered_with_the_nearest():
    with pytest.raises(DataError, match="no split 'letter'; did you mean 'letters'"):
        create("emnist", split="letter")


def test_cifar10_becomes_channels_first(tmp_path, monkeypatch):
    images = np.random.default_rng(0).integers(0, 256, (20, 3, 32, 32), dtype=np.uint8)
    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    batch = {"data": images.reshape(20, -1), "labels": [row % 10 for row in range(20)]}
    for name, content in (("one", batch), ("two", batch), ("meta", {"label_names": list("abcdefghij")})):
        (folder / name).write_bytes(pickle.dumps(content))
    monkeypatch.setattr(torchvision.datasets.CIFAR10, "train_list", [["one", None]])
    monkeypatch.setattr(torchvision.datasets.CIFAR10, "test_list", [["two", None]])
    monkeypatch.setattr(torchvision.datasets.CIFAR10, "meta", {"filename": "meta", "key": "label_names", "md5": None})
    source = create("cifar10", tmp_path)
    assert torch.equal(source.train.images, torch.from_numpy(images))
    assert source.test.labels.tolist() == batch["labels"]
    assert source.classes == list("abcdefghij")


def test_svhn_has_images_upright_and_zero_as_class_zero(tmp_path, monkeypatch):
    images = np.random.default_rng(0).integers(0, 256, (20, 3, 32, 32), dtype=np.uint8)
    labels = np.arange(1, 21) % 10
    stored = {"X": images.transpose(2, 3, 1, 0), "y": np.where(labels == 0, 10, labels)[:, None]}
    files = {part: ["", f"{part}_32x32.mat", None] for part in ("train", "test")}
    for part in files:
        scipy.io.savemat(tmp_path / f"{part}_32x32.mat", stored)
    monkeypatch.setattr(torchvision.datasets.SVHN, "split_list", files)
    source = create("svhn", tmp_path)
    assert torch.equal(source.train.images, torch.from_numpy(images))
    assert source.train.labels.tolist() == labels.tolist()


def test_stl10_reads_labels_and_class_names(tmp_path, monkeypatch):
    images = np.random.default_rng(0).integers(0, 256, (10, 3, 96, 96), dtype=np.uint8)
    folder = tmp_path / "stl10_binary"
    folder.mkdir()
    for part in ("train", "test"):
        images.transpose(0, 1, 3, 2).tofile(folder / f"{part}_X.bin")
        np.arange(1, 11, dtype=np.uint8).tofile(folder / f"{part}_y.bin")
    (folder / "class_names.txt").write_text("\n".join("abcdefghij"))
    monkeypatch.setattr(torchvision.datasets.STL10, "train_list", [["train_X.bin", None], ["train_y.bin", None]])
    monkeypatch.setattr(torchvision.datasets.STL10, "test_list", [["test_X.bin", None], ["test_y.bin", None]])
    source = create("stl10", tmp_path)
    assert torch.equal(source.train.images, torch.from_numpy(images))
    assert source.train.labels.tolist() == list(range(10))
    assert source.classes == list("abcdefghij")


@pytest.mark.parametrize("name", NAMES)
def test_missing_files_name_the_folder_and_the_way_out(tmp_path, home, name):
    for root in (tmp_path / "empty", None):
        with pytest.raises(DataError, match=r"set data\.root=FOLDER or data\.download=true") as caught:
            create(name, root)
        assert str(root or home / ".cache" / "lwexplain") in str(caught.value)


@pytest.mark.parametrize("name", NAMES)
def test_a_download_without_network_fails_in_one_line(tmp_path, monkeypatch, name, capsys):
    def offline(*_args, **_options):
        raise urllib.error.URLError("no route to host")

    for module in ("mnist", "cifar", "stl10"):
        monkeypatch.setattr(f"torchvision.datasets.{module}.download_and_extract_archive", offline)
    monkeypatch.setattr("torchvision.datasets.svhn.download_url", offline)
    with pytest.raises(DataError, match=rf"cannot download {name} into .*check the network") as caught:
        create(name, tmp_path, download=True)
    assert "\n" not in str(caught.value)
    assert caught.value.__suppress_context__
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    ("name", "path"), [("cifar10", "cifar-10-batches-py/data_batch_1"), ("svhn", "train_32x32.mat")]
)
def test_damaged_files_with_checksums_are_reported(tmp_path, name, path):
    (tmp_path / path).parent.mkdir(exist_ok=True)
    (tmp_path / path).write_bytes(b"damaged")
    with pytest.raises(
        DataError, match=rf"{name} in .* is incomplete or damaged: .*corrupted.*; remove .*{path.split('/')[0]}"
    ):
        create(name, tmp_path)


@pytest.mark.parametrize(
    "damage",
    [
        lambda raw: gzip.compress(raw)[:-2000],
        lambda raw: gzip.compress(raw[:-10]),
        lambda raw: gzip.compress(b"\0\0\x0d\x03" + raw[4:]),
        lambda raw: gzip.compress(b""),
        lambda raw: b"not gzip",
    ],
    ids=["cut gzip", "fewer pixels than announced", "another type", "empty", "not gzip"],
)
def test_a_damaged_idx_file_is_named(tmp_path, damage):
    write_idx_files(tmp_path)
    path = tmp_path / "train-images-idx3-ubyte.gz"
    path.write_bytes(damage(gzip.decompress(path.read_bytes())))
    with pytest.raises(DataError, match=r"train-images-idx3-ubyte\.gz is damaged.*remove it"):
        create("mnist", tmp_path)


def test_labels_that_do_not_fit_the_images_are_reported(tmp_path):
    write_idx_files(tmp_path)
    (tmp_path / "t10k-labels-idx1-ubyte.gz").write_bytes(gzip.compress(idx_bytes(np.arange(4))))
    with pytest.raises(DataError, match=r"4 labels for the 10 images of t10k-images"):
        create("mnist", tmp_path)
