import numpy as np
import pytest
import torch
from PIL import Image

import lwexplain.data.load as load_module
from lwexplain.config import DataConfig, load_config
from lwexplain.data.dataset import DATASETS, ImageArrays, ImageFiles, Source
from lwexplain.data.load import channel_stats, check_source, convert, load_data, of_classes, redraw_labels
from lwexplain.errors import ConfigError, DataError, UnknownNameError
from lwexplain.memory import available_memory


@pytest.fixture
def image_root(tmp_path):
    rng = np.random.default_rng(0)
    for part, count in (("train", 12), ("test", 3)):
        for name in ("cat", "dog"):
            (tmp_path / part / name).mkdir(parents=True)
            for number in range(count):
                pixels = rng.integers(0, 256, (6, 6, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(tmp_path / part / name / f"{number}.png")
    return tmp_path


def rows(images):
    """Each image as bytes, to compare splits by content."""
    return [image.numpy().tobytes() for image in images.gather(torch.arange(len(images)))]


def source(count=12, channels=1, labels=None, classes=("a", "b"), test=None):
    images = torch.randint(0, 256, (count, channels, 4, 4), generator=torch.Generator().manual_seed(0))
    labels = torch.arange(count) % 2 if labels is None else torch.tensor(labels)
    return Source("mine", list(classes), ImageArrays(images.to(torch.uint8), labels), test)


def test_digits_are_split_in_three_without_overlap():
    data = load_data(DataConfig(name="synthetic", options={"samples": 500}), 0)
    train, val, test = (set(rows(part)) for part in (data.train, data.val, data.test))
    assert (len(train), len(val), len(test)) == (360, 40, 100)
    assert not train & val
    assert not train & test
    assert not val & test


def test_splits_hold_every_class_in_proportion():
    data = load_data(DataConfig(name="synthetic", options={"samples": 1000, "classes": 10}), 0)
    for part, each in ((data.train, 72), (data.val, 8), (data.test, 20)):
        assert torch.bincount(part.labels).tolist() == [each] * 10


def test_a_test_set_of_its_own_is_kept_whole(image_root):
    data = load_data(DataConfig(name="folder", root=image_root, val_fraction=0.25), 0)
    assert (len(data.train), len(data.val), len(data.test)) == (18, 6, 6)


def test_the_seed_alone_decides_the_split():
    config = DataConfig()
    assert load_data(config, 1).fingerprint == load_data(config, 1).fingerprint
    assert load_data(config, 1).fingerprint != load_data(config, 2).fingerprint


def test_train_size_changes_train_alone():
    whole, part = load_data(DataConfig(), 0), load_data(DataConfig(train_size=100), 0)
    assert len(part.train) == 100
    assert set(rows(part.train)) <= set(rows(whole.train))
    assert torch.equal(part.val.images, whole.val.images)
    assert torch.equal(part.test.images, whole.test.images)


def test_a_train_size_beyond_the_data_is_refused():
    with pytest.raises(DataError, match=r"train_size=5000 is more than the 1294"):
        load_data(DataConfig(train_size=5000), 0)


def test_the_fingerprint_covers_all_three_splits(image_root):
    def fingerprint():
        return load_data(DataConfig(name="folder", root=image_root), 0).fingerprint

    before = fingerprint()
    path = image_root / "test" / "dog" / "0.png"
    Image.new("RGB", (6, 6)).save(path)
    assert fingerprint() != before


def test_resident_or_not_the_data_is_the_same(image_root):
    config = DataConfig(name="folder", root=image_root, image_size=5)
    held, read = (load_data(config.model_copy(update={"resident": choice}), 3) for choice in (True, False))
    assert isinstance(held.train, ImageArrays)
    assert isinstance(read.train, ImageFiles)
    assert held.fingerprint == read.fingerprint
    assert (held.mean, held.std) == (read.mean, read.std)
    for name in ("train", "val", "test"):
        assert rows(getattr(held, name)) == rows(getattr(read, name))


def test_files_stay_on_disk_where_memory_is_short(image_root, monkeypatch):
    config = DataConfig(name="folder", root=image_root)
    needed = 30 * 3 * 6 * 6
    monkeypatch.setattr(load_module, "available_memory", lambda: 4 * needed)
    assert isinstance(load_data(config, 0).train, ImageArrays)
    monkeypatch.setattr(load_module, "available_memory", lambda: 4 * needed - 4)
    assert isinstance(load_data(config, 0).train, ImageFiles)


def test_available_memory_is_a_plausible_number_of_bytes():
    assert 2**20 < available_memory() < 2**50


def test_mean_and_std_are_those_of_train_alone():
    data = load_data(DataConfig(name="synthetic", options={"channels": 3, "samples": 200}), 0)
    pixels = data.train.images.double() / 255
    assert data.mean == pytest.approx(pixels.mean((0, 2, 3)).tolist())
    assert data.std == pytest.approx(pixels.std((0, 2, 3), correction=0).tolist())
    assert data.stats_count == len(data.train)


def test_a_constant_channel_has_std_one():
    images = ImageArrays(torch.full((4, 1, 3, 3), 128, dtype=torch.uint8), torch.zeros(4, dtype=torch.int64))
    mean, std = channel_stats(images, torch.arange(4))
    assert mean == pytest.approx([128 / 255])
    assert std == [1.0]


def test_large_file_sets_say_how_many_images_the_statistics_rest_on(image_root, monkeypatch):
    monkeypatch.setattr(load_module, "STATS_LIMIT", 7)
    config = DataConfig(name="folder", root=image_root)
    held, read = (load_data(config.model_copy(update={"resident": choice}), 0) for choice in (True, False))
    assert held.stats_count == read.stats_count == 7
    assert held.mean == read.mean


def test_colour_becomes_grey_by_luma_and_grey_becomes_colour_by_repetition():
    colour = source(channels=3).train
    grey = convert(colour, None, 1)
    luma = (colour.images.double() * torch.tensor([0.299, 0.587, 0.114]).reshape(1, 3, 1, 1)).sum(1)
    assert grey.shape == (1, 4, 4)
    assert (grey.images[:, 0] - luma).abs().max() <= 0.51
    back = convert(grey, None, 3)
    assert torch.equal(back.images, grey.images.expand(-1, 3, -1, -1))


def test_arrays_and_files_are_resized_alike(tmp_path):
    ramp = torch.arange(0, 256, 4, dtype=torch.uint8).repeat(64, 1)
    Image.fromarray(ramp.numpy()).save(tmp_path / "ramp.png")
    zero = torch.zeros(1, dtype=torch.int64)
    held = convert(ImageArrays(ramp[None, None], zero), 16, None)
    read = convert(ImageFiles(["ramp.png"], zero, channels=1, size=(64, 64), root=tmp_path), 16, None)
    assert held.shape == read.shape == (1, 16, 16)
    assert (held.images.int() - read.gather(torch.tensor([0])).int()).abs().max() <= 1


def test_image_size_and_channels_reach_all_splits():
    data = load_data(DataConfig(image_size=12, channels=3), 0)
    assert data.shape == data.val.shape == data.test.shape == (3, 12, 12)
    assert len(data.mean) == len(data.std) == 3


def test_conversion_that_changes_nothing_copies_nothing():
    images = source().train
    assert convert(images, None, None) is images
    assert convert(images, 4, 1) is images


def test_channels_without_a_meaning_are_not_converted():
    with pytest.raises(DataError, match="images of 2 channels"):
        convert(source(channels=2).train, None, 3)


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (lambda: source(classes=["a"]), "has 1 class; a classifier needs at least 2"),
        (lambda: source(classes=["a", "b", "c"]), "no training images of class 'c'"),
        (lambda: source(labels=[0, 1] * 5 + [0, 7]), "labels go from 0 to 7, expected 0 to 1"),
        (lambda: source(test=source(channels=3).train), r"test images is \(3, 4, 4\), of training images \(1, 4, 4\)"),
        (lambda: source(count=0), "has no train images"),
    ],
)
def test_a_source_that_cannot_be_used_is_refused(bad, message):
    with pytest.raises(DataError, match=message):
        check_source(bad())


def test_a_data_set_is_added_by_registering_a_function():
    name = "registered by a test"

    def mine(config, *, count=12):
        return source(count)

    with DATASETS.temporary():
        DATASETS.register(name)(mine)
        data = load_data(DataConfig(name=name, options={"count": 20}), 0)
        assert len(data.train) + len(data.val) + len(data.test) == 20
        with pytest.raises(UnknownNameError, match="no option 'cuont'"):
            load_data(DataConfig(name=name, options={"cuont": 20}), 0)
    assert name not in DATASETS


def test_loading_leaves_the_global_random_state_alone():
    before = torch.get_rng_state()
    load_data(DataConfig(name="synthetic", options={"samples": 100}, train_size=50), 0)
    assert torch.equal(before, torch.get_rng_state())


def noisy(share, seed=0, **changes):
    config = DataConfig(name="synthetic", options={"samples": 4000, "classes": 10, "size": 8}, **changes)
    return load_data(config.model_copy(update={"label_noise": share}), seed)


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_label_noise_changes_its_share_of_train_and_val_less_the_draws_of_the_true_class(share):
    """Binomial: of n redrawn labels n * 9/10 change, give or take 4 standard deviations."""
    clean, changed = noisy(0.0), noisy(share)
    for part in ("train", "val"):
        before, after = getattr(clean, part).labels, getattr(changed, part).labels
        redrawn = round(share * len(before))
        wrong = int((before != after).sum())
        assert abs(wrong - 0.9 * redrawn) <= 4 * (redrawn * 0.9 * 0.1) ** 0.5


def test_label_noise_leaves_test_labels_and_all_images_alone():
    clean, changed = noisy(0.0), noisy(1.0)
    assert torch.equal(clean.test.labels, changed.test.labels)
    for part in ("train", "val", "test"):
        assert torch.equal(getattr(clean, part).images, getattr(changed, part).images)
    assert (clean.mean, clean.std) == (changed.mean, changed.std)


def test_random_labels_are_uniform_and_independent_of_the_true_ones():
    """Chi-squared of a 10 x 10 table of true and drawn labels, 99 degrees of freedom: above 149 once in a thousand."""
    clean, changed = noisy(0.0).train.labels, noisy(1.0).train.labels
    table = torch.bincount(10 * clean + changed, minlength=100).double()
    expected = len(clean) / 100
    assert ((table - expected) ** 2 / expected).sum() < 149


@pytest.mark.parametrize("share", [0, 0.001, 0.25, 0.333, 0.5, 1])
def test_exactly_the_rounded_number_of_labels_is_redrawn(share):
    """Counted by drawing from one class that no image has."""
    images = ImageArrays(torch.zeros(1001, 1, 1, 1, dtype=torch.uint8), torch.full((1001,), 7))
    labels = redraw_labels(images, share, 1, 0, part="train").labels
    assert int((labels == 0).sum()) == round(share * 1001)
    assert int((labels == 7).sum()) == 1001 - round(share * 1001)
    assert torch.equal(images.labels, torch.full((1001,), 7))


def test_a_larger_share_redraws_the_same_labels_and_more():
    clean, little, much = (noisy(share).train.labels for share in (0.0, 0.2, 0.6))
    changed = little != clean
    assert torch.equal(little[changed], much[changed])


def test_label_noise_is_a_function_of_the_seed_and_the_split():
    images = source(count=200).train
    first, same, other = (redraw_labels(images, 0.5, 2, seed, part="train").labels for seed in (1, 1, 2))
    assert torch.equal(first, same)
    assert not torch.equal(first, other)
    assert not torch.equal(first, redraw_labels(images, 0.5, 2, 1, part="val").labels)
    assert noisy(0.5).fingerprint == noisy(0.5).fingerprint


def test_label_noise_is_part_of_the_fingerprint():
    assert len({noisy(share).fingerprint for share in (0.0, 0.1, 0.2, 1.0)}) == 4


def test_the_subset_of_train_size_is_drawn_by_the_clean_labels():
    clean, changed = noisy(0.0, train_size=100), noisy(1.0, train_size=100)
    assert torch.equal(clean.train.images, changed.train.images)
    assert torch.bincount(clean.train.labels).tolist() == [10] * 10
    assert torch.bincount(changed.train.labels, minlength=10).tolist() != [10] * 10


@pytest.mark.parametrize("resident", [True, False])
def test_label_noise_reaches_images_in_files(image_root, resident):
    config = DataConfig(name="folder", root=image_root, resident=resident)
    clean, changed = load_data(config, 0), load_data(config.model_copy(update={"label_noise": 1.0}), 0)
    assert rows(clean.train) == rows(changed.train)
    assert not torch.equal(clean.train.labels, changed.train.labels)
    assert torch.equal(clean.test.labels, changed.test.labels)
    assert clean.fingerprint != changed.fingerprint


def test_a_class_may_lose_all_its_training_images_to_label_noise():
    images = source(count=2).train
    counts = [
        torch.bincount(redraw_labels(images, 1.0, 2, seed, part="train").labels, minlength=2) for seed in range(9)
    ]
    assert any(0 in count.tolist() for count in counts)


@pytest.mark.parametrize("share", [-0.1, 1.01, float("nan"), "much"])
def test_a_share_of_label_noise_outside_zero_to_one_is_refused(share):
    with pytest.raises(ConfigError, match=r"data\.label_noise: .*found"):
        load_config({"data": {"label_noise": share}})


# ---------------------------------------------------------------------- some classes of a set


def test_some_classes_are_labelled_by_their_place_in_the_list_and_the_others_are_gone():
    images = torch.arange(9, dtype=torch.uint8).reshape(9, 1, 1, 1).expand(9, 1, 4, 4).clone()
    arrays = ImageArrays(images, torch.tensor([0, 1, 2, 0, 1, 2, 0, 1, 2]))
    narrow = of_classes(Source("mine", ["a", "b", "c"], arrays, arrays), ["c", "a"])
    assert narrow.classes == ["c", "a"]
    for part in (narrow.train, narrow.test):
        assert part.images[:, 0, 0, 0].tolist() == [0, 2, 3, 5, 6, 8]
        assert part.labels.tolist() == [1, 0, 1, 0, 1, 0]


def test_the_splits_of_some_classes_hold_the_digits_of_those_alone():
    data = load_data(DataConfig(classes=["7", "1"]), 0)
    assert data.classes == ["7", "1"]
    counts = [len(part) for part in (data.train, data.val, data.test)]
    assert sum(counts) == 179 + 182  # sevens and ones in the set
    assert {tuple(part.labels.unique().tolist()) for part in (data.train, data.val, data.test)} == {(0, 1)}


def test_classes_of_image_files_are_narrowed_without_reading_them(image_root):
    data = load_data(DataConfig(name="folder", root=image_root, classes=["dog", "cat"], resident=False), 0)
    assert data.classes == ["dog", "cat"]
    for path, label in zip(data.test.paths, data.test.labels.tolist(), strict=True):
        assert ("dog" in path) == (label == 0)


def test_the_classes_and_their_order_are_part_of_the_fingerprint():
    def fingerprint(classes):
        return load_data(DataConfig(classes=classes), 0).fingerprint

    assert fingerprint(["1", "7"]) == fingerprint(["1", "7"])
    assert len({fingerprint(classes) for classes in (None, ["1", "7"], ["7", "1"], ["1", "7", "8"])}) == 4


def test_all_classes_in_their_own_order_change_nothing():
    whole = load_data(DataConfig(), 0)
    assert load_data(DataConfig(classes=whole.classes), 0).fingerprint == whole.fingerprint


def test_an_unknown_class_is_refused_with_a_suggestion():
    narrow = source(classes=("cat", "dog"))
    with pytest.raises(DataError, match=r"'mine' has no class 'dogs'; did you mean 'dog'\? known: cat, dog"):
        of_classes(narrow, ["cat", "dogs"])


@pytest.mark.parametrize("classes", [[], ["a"], ["a", "a"], ["a", "b", "b"]])
def test_fewer_than_two_classes_and_one_named_twice_are_refused(classes):
    with pytest.raises(DataError, match=r"data.classes=\[.*\] must name two or more different classes"):
        of_classes(source(), classes)
