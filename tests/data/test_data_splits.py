import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lwexplain.data.splits import allocate, stratified_split, stratified_subset
from lwexplain.errors import DataError

class_counts = st.lists(st.integers(2, 60), min_size=2, max_size=8)
seeds = st.integers(0, 2**40)


def shuffled_labels(counts, seed=0):
    labels = torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts))
    return labels[torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))]


def largest_remainder(counts, total):
    """Hamilton's method as the textbooks state it, in exact integers."""
    whole = [count * total // sum(counts) for count in counts]
    order = sorted(range(len(counts)), key=lambda k: (-(counts[k] * total % sum(counts)), k))
    for k in order[: total - sum(whole)]:
        whole[k] += 1
    return whole


@settings(max_examples=60, deadline=None)
@given(class_counts, st.floats(0.01, 0.99), seeds)
def test_a_split_shares_out_every_sample_once_with_each_class_on_both_sides(counts, fraction, seed):
    labels = shuffled_labels(counts)
    kept, held_out = stratified_split(labels, fraction, seed)
    assert torch.equal(torch.cat([kept, held_out]).sort().values, torch.arange(len(labels)))
    for part in (kept, held_out):
        assert set(labels[part].tolist()) == set(range(len(counts)))
        assert torch.equal(part, part.sort().values)


@settings(max_examples=60, deadline=None)
@given(class_counts, st.data(), seeds)
def test_a_subset_has_exactly_the_size_asked_for_and_every_class(counts, data, seed):
    labels = shuffled_labels(counts)
    size = data.draw(st.integers(len(counts), len(labels)))
    chosen = stratified_subset(labels, size, seed)
    assert len(chosen) == len(chosen.unique()) == size
    assert set(labels[chosen].tolist()) == set(range(len(counts)))


@settings(max_examples=200, deadline=None)
@given(class_counts, st.data())
def test_shares_are_those_of_the_largest_remainder_method_unless_a_class_would_be_empty(counts, data):
    total = data.draw(st.integers(len(counts), sum(counts)))
    shares = allocate(counts, total, counts)
    expected = largest_remainder(counts, total)
    assert sum(shares) == total
    assert all(1 <= share <= count for share, count in zip(shares, counts, strict=True))
    if min(expected) >= 1:
        assert shares == expected


@settings(max_examples=30, deadline=None)
@given(class_counts, seeds)
def test_the_same_seed_gives_the_same_split(counts, seed):
    labels = shuffled_labels(counts)
    first, second = stratified_split(labels, 0.3, seed), stratified_split(labels, 0.3, seed)
    assert torch.equal(first[0], second[0])
    assert torch.equal(first[1], second[1])
    assert torch.equal(stratified_subset(labels, len(counts), seed), stratified_subset(labels, len(counts), seed))


def test_another_seed_gives_another_split():
    labels = shuffled_labels([50, 50])
    assert not torch.equal(stratified_split(labels, 0.5, 0)[1], stratified_split(labels, 0.5, 1)[1])


def test_splits_leave_the_global_random_state_alone():
    labels = shuffled_labels([50, 50])
    before = torch.get_rng_state()
    stratified_split(labels, 0.5, 0)
    stratified_subset(labels, 10, 0)
    assert torch.equal(before, torch.get_rng_state())


def test_balanced_classes_are_split_evenly():
    labels = shuffled_labels([100] * 10)
    _, held_out = stratified_split(labels, 0.1, 0)
    assert torch.bincount(labels[held_out]).tolist() == [10] * 10


def test_a_class_with_a_single_image_is_named():
    with pytest.raises(DataError, match=r"class 'owl' has 1 image.* val"):
        stratified_split(torch.tensor([0, 0, 0, 1]), 0.2, 0, classes=["cat", "owl"])


def test_more_training_images_than_there_are_is_refused():
    with pytest.raises(DataError, match=r"train_size=11 is more than the 10"):
        stratified_subset(shuffled_labels([5, 5]), 11, 0)


def test_a_subset_smaller_than_the_number_of_classes_names_one_left_out():
    with pytest.raises(DataError, match=r"train_size=1 .*class 'owl'"):
        stratified_subset(shuffled_labels([5, 5]), 1, 0, classes=["cat", "owl"])


def test_nothing_cannot_be_split():
    with pytest.raises(DataError, match="no images"):
        stratified_split(torch.tensor([], dtype=torch.int64), 0.5, 0)
