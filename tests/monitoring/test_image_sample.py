"""The images that looks see: the same ones in whatever order, in the classes' proportions, halved class by class."""

import random

import numpy as np
import pytest
import torch
from plain_loop import made_images, small_network
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from lwexplain.data.batch_form import BatchForm
from lwexplain.errors import CaptureError
from lwexplain.monitoring.sample import take_sample

UNEVEN = np.repeat([0, 1, 2], [600, 300, 100])


def loader_of(labels, order=None, batch=64):
    images = torch.randn(len(labels), 1, 8, 8, generator=torch.Generator().manual_seed(0))
    order = np.arange(len(labels)) if order is None else order
    return DataLoader(TensorDataset(images[order], torch.from_numpy(np.asarray(labels)[order])), batch_size=batch)


def test_classes_are_in_their_proportions_also_among_the_first_so_many():
    sample = take_sample(loader_of(UNEVEN), small_network(), 200)
    assert np.bincount(sample.labels).tolist() == [120, 60, 20]
    assert (sample.seen, sample.classes_seen, sample.batch_size) == (1000, 3, 64)
    for n in (10, 40, 100):
        counts = np.bincount(sample.first(n).labels, minlength=3)
        assert np.abs(counts - n * np.array([0.6, 0.3, 0.1])).max() <= 1


def test_each_class_is_halved():
    sample = take_sample(loader_of(UNEVEN), small_network(), 200)
    for part in (sample, sample.first(61)):
        for label in part.classes:
            fitted = int(part.fit[part.labels == label].sum())
            assert 0 <= 2 * fitted - int((part.labels == label).sum()) <= 1
    assert sample.chance == pytest.approx(0.6)


def test_the_order_of_the_loader_does_not_matter():
    rng = np.random.default_rng(0)
    samples = [
        take_sample(loader_of(UNEVEN, order, batch), small_network(), 200)
        for order, batch in ((None, 64), (rng.permutation(1000), 64), (np.arange(1000)[::-1].copy(), 7))
    ]
    assert len({sample.fingerprint for sample in samples}) == 1
    assert torch.equal(samples[0].images, samples[1].images)
    assert samples[0].fingerprint != take_sample(loader_of(UNEVEN), small_network(), 100).fingerprint


def test_of_many_classes_some_are_chosen_with_ten_images_each():
    labels = np.arange(6000) % 300
    sample = take_sample(loader_of(labels), small_network(), 200)
    assert len(sample.classes) == 20
    assert sample.classes_seen == 300
    assert np.unique(np.bincount(sample.labels)[sample.classes]).tolist() == [10]


def test_memory_holds_the_sample_and_little_more(monkeypatch):
    from lwexplain.monitoring import sample as module

    most = []
    trim = module._Choice._trim

    def watched(choice):
        trim(choice)
        most.append(sum(map(len, choice.kept.values())))

    monkeypatch.setattr(module._Choice, "_trim", watched)
    sample = take_sample(loader_of(np.arange(5000) % 5), small_network(), 100)
    assert len(sample) == 100
    assert len(most) > 5
    assert max(most) <= 1.25 * 100 + 5 * 8
    assert sample.images.untyped_storage().nbytes() == sample.images.nbytes


def test_random_states_are_as_before_also_those_of_the_loader():
    shared = torch.Generator().manual_seed(4)
    loader = DataLoader(TensorDataset(*made_images(64)), batch_size=16, shuffle=True, generator=shared)
    model = small_network()
    torch.manual_seed(1)
    np.random.seed(1)
    random.seed(1)
    before = torch.get_rng_state(), np.random.get_state()[1].tolist(), random.getstate(), shared.get_state()
    take_sample(loader, model, 40)
    after = torch.get_rng_state(), np.random.get_state()[1].tolist(), random.getstate(), shared.get_state()
    assert torch.equal(before[0], after[0])
    assert before[1:3] == after[1:3]
    assert torch.equal(before[3], after[3])


def test_batches_of_any_form_are_read():
    images, labels = made_images(40)
    as_mapping = [
        {"pixel_values": images[:20], "labels": labels[:20]},
        {"pixel_values": images[20:], "labels": labels[20:]},
    ]
    plain = take_sample([(images, labels)], small_network(), 100)
    assert take_sample(as_mapping, small_network(), 100).fingerprint == plain.fingerprint
    pixels = (torch.rand(40, 1, 8, 8) * 255).to(torch.uint8)
    form = BatchForm.of(lambda batch: (batch["img"], batch["class"]), mean=[0.5], std=[0.25])
    sample = take_sample([{"img": pixels, "class": labels.to(torch.int16)}], small_network(), 100, form)
    assert sample.images.dtype == torch.float32
    assert float(sample.images.min()) < -1


def test_tokens_of_whole_numbers_are_no_problem():
    class Embeds(nn.Module):
        def __init__(self):
            super().__init__()
            self.embed = nn.Embedding(50, 8)

        def forward(self, x):
            return self.embed(x).mean(1)

    tokens = torch.randint(0, 50, (60, 12), generator=torch.Generator().manual_seed(0))
    assert len(take_sample([(tokens, torch.arange(60) % 3)], Embeds(), 30)) == 30


@pytest.mark.parametrize(
    ("loader", "match"),
    [
        ([], "empty"),
        (None, "val_loader is None"),
        ([(torch.randn(8, 1, 8, 8), torch.zeros(8))], "float32 values"),
        ([(torch.full((8, 1, 8, 8), torch.nan), torch.arange(8) % 2)], "NaN"),
        ([(torch.randn(30, 1, 8, 8), torch.arange(30))], "two such classes"),
    ],
)
def test_what_gives_no_sample_is_refused(loader, match):
    with pytest.raises(CaptureError, match=match):
        take_sample(loader, small_network(), 100)
