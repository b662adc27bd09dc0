import errno
import gc
import os
import weakref
from pathlib import Path

import pytest
import torch

from lwexplain.errors import TrainingError
from lwexplain.models.staged import as_tuple
from lwexplain.training import prefix
from lwexplain.training.checkpoint import LAST, load_checkpoint
from lwexplain.training.prefix import LivePrefix, PrefixBatch, PrefixCache, views_for

GREEDY = {"training.strategy": "greedy", "training.head": "linear", "training.optimizer.lr": 0.01}
PLAIN = {"data.augment": {}}
LAYERS = {"model.name": "resnet10", "model.units": "layer", "model.options": {}}


def train(make, name, overrides):
    trainer, run = make(name, GREEDY | overrides)
    trainer.fit(run)
    return trainer, run


def weights(run):
    tensors, _ = load_checkpoint(run.checkpoints / LAST)
    return {name: tensor for name, tensor in tensors.items() if name.startswith("model.")}


def same(one, other):
    assert one.keys() == other.keys()
    return all(torch.equal(tensor, other[name]) for name, tensor in one.items())


def cache_of(trainer, folder, depth, *, views=2, place="memory", keep_images=False):
    """A cache of the first ``depth`` stages of an untrained model."""
    trainer.model.freeze(trainer.model.depth - 1)
    size = trainer.val_batches.batch_size
    sources = trainer.train_batches.in_order(size), trainer.val_batches.in_order(size)
    made = PrefixCache(
        trainer.model, *sources, trainer.autocast, views=views, place=place, folder=folder, keep_images=keep_images
    )
    made.deepen(depth)
    return made


def by_position(batches):
    """States and images of an epoch in the order of the split."""
    batches = list(batches)
    order = torch.cat([batch.positions for batch in batches]).argsort()
    states = zip(*(as_tuple(batch.state) for batch in batches), strict=True)
    images = torch.cat([batch.images for batch in batches])
    return [torch.cat(parts)[order] for parts in states], images[order] if len(images) else images


def mapped_files():
    return Path("/proc/self/maps").read_text().count("/.prefix-")


# ---------------------------------------------------------------------- the same training


def test_without_augmentation_a_cache_trains_as_the_live_prefix_does(make):
    """Up to rounding: a convolution may add up in another order for another number of images."""
    _, cached = train(make, "cached", PLAIN | {"training.prefix_cache": "memory"})
    _, live = train(make, "live", PLAIN | {"training.prefix_cache": "off"})
    one, other = weights(cached), weights(live)
    assert all(torch.allclose(tensor, other[name], rtol=0, atol=1e-5) for name, tensor in one.items())


def test_a_cache_trains_to_the_same_bits_where_it_is_filled_by_batches_of_the_same_size(make):
    """All 216 images in one batch, in another order only."""
    whole = PLAIN | {"data.batch_size": 500, "training.epochs": 4}
    _, cached = train(make, "cached", whole | {"training.prefix_cache": "memory", "training.prefix_views": 4})
    _, live = train(make, "live", whole | {"training.prefix_cache": "off"})
    assert same(weights(cached), weights(live))


@pytest.mark.parametrize("overrides", [{}, {"training.precision": "bf16"}, LAYERS], ids=["fp32", "bf16", "layers"])
def test_memory_disk_and_device_train_to_the_same_bits(make, overrides):
    runs = {}
    for place in ("memory", "disk", "device"):
        trainer, run = train(make, place, overrides | {"training.prefix_cache": place, "training.epochs": 1})
        assert trainer.prefix.places == {place}
        runs[place] = weights(run)
    assert same(runs["memory"], runs["disk"])
    assert same(runs["memory"], runs["device"])


def test_auto_takes_memory_where_there_is_room(make):
    trainer, run = train(make, "auto", {"training.prefix_cache": "auto", "training.epochs": 1})
    assert trainer.prefix.places == {"memory"}
    phases = [event for event in run.read_events() if event["event"] == "phase"]
    assert [phase.get("prefix_place") for phase in phases] == [None, ["memory"], ["memory"]]
    assert [phase.get("prefix_views") for phase in phases] == [None, 1, 1]  # no more than there are epochs
    count = len(trainer.train_batches.images) + len(trainer.val_batches.images)
    assert [phase.get("prefix_bytes") for phase in phases] == [None, count * 4 * 8 * 8 * 4, count * 4 * 8 * 8 * 4]


@pytest.mark.parametrize("place", ["memory", "disk", "off"])
def test_frozen_stages_keep_their_parameters_and_statistics(make, monkeypatch, place):
    trainer, run = make("run", GREEDY | {"training.prefix_cache": place, "training.epochs": 1})
    learned, checked = {}, []
    leave = trainer._leave

    def leaving(phase):
        now = {key: tensor.clone() for key, tensor in trainer.model.state_dict().items()}
        for depth, before in learned.items():
            own = (f"body.{depth - 1}.", f"heads.{depth}.")
            assert same(before, {key: tensor for key, tensor in now.items() if key.startswith(own)})
            checked.append((phase.depth, depth))
        own = (f"body.{phase.depth - 1}.", f"heads.{phase.depth}.")
        learned[phase.depth] = {key: tensor for key, tensor in now.items() if key.startswith(own)}
        leave(phase)

    monkeypatch.setattr(trainer, "_leave", leaving)
    trainer.fit(run)
    assert checked == [(2, 1), (3, 1), (3, 2)]


# ---------------------------------------------------------------------- what is kept


def test_a_view_holds_what_the_frozen_stages_make_of_its_augmented_images(make, tmp_path):
    trainer, _ = make("run", GREEDY)
    cache = cache_of(trainer, tmp_path, 2, views=3)
    seen = []
    for view in range(3):
        found, _ = by_position(cache.training(trainer.train_batches, key=7, epoch=view, start=0))
        source = trainer.train_batches.in_order(trainer.val_batches.batch_size)
        order = torch.cat([batch.positions for batch in cache.training(trainer.train_batches, 7, view, 0)]).sort()[0]
        with torch.no_grad():
            expected = [trainer.model.run_stages(images, 0, 2) for images, _, _ in source.epoch(key=view)]
        assert torch.equal(found[0], torch.cat(expected)[order])
        seen.append(found[0])
    assert not torch.equal(seen[0], seen[1])
    assert not torch.equal(seen[1], seen[2])


def test_epochs_take_the_views_in_turn(make, tmp_path):
    trainer, _ = make("run", GREEDY)
    cache = cache_of(trainer, tmp_path, 1, views=2)
    epochs = [by_position(cache.training(trainer.train_batches, 3, epoch, 0))[0][0] for epoch in range(4)]
    assert torch.equal(epochs[0], epochs[2])
    assert torch.equal(epochs[1], epochs[3])
    assert not torch.equal(epochs[0], epochs[1])


@pytest.mark.parametrize(
    ("epochs", "wanted", "views"),
    [(1, None, 1), (2, None, 2), (10, None, 2), (20, None, 4), (100, None, 8), (10, 5, 5), (3, 5, 3), (10, 1, 1)],
)
def test_views_are_a_fifth_of_the_epochs_from_2_to_8_or_as_wanted(epochs, wanted, views):
    assert views_for(epochs, wanted) == views


def test_without_augmentation_one_view_is_kept(make, tmp_path):
    trainer, _ = make("run", GREEDY | PLAIN)
    cache = cache_of(trainer, tmp_path, 1, views=4)
    assert cache.views == 1
    count = len(trainer.train_batches.images) + len(trainer.val_batches.images)
    assert cache.bytes == count * 4 * 8 * 8 * 4


@pytest.mark.parametrize("start", [0, 2])
def test_batches_come_in_the_order_of_the_epoch_from_any_step_on(make, tmp_path, start):
    trainer, _ = make("run", GREEDY)
    cache = cache_of(trainer, tmp_path, 1)
    batches = list(cache.training(trainer.train_batches, 5, 0, start))
    expected = trainer.train_batches.steps(5, start)
    assert len(batches) == len(expected)
    for batch, positions in zip(batches, expected, strict=True):
        assert torch.equal(batch.positions, positions)
        assert torch.equal(batch.labels, trainer.train_batches.images.labels[positions])


def test_val_comes_in_order_and_as_the_live_prefix_makes_it(make, tmp_path):
    trainer, _ = make("run", GREEDY)
    cache = cache_of(trainer, tmp_path, 2)
    kept = list(cache.validation(trainer.val_batches))
    live = list(LivePrefix(trainer.model, 2, trainer.autocast).validation(trainer.val_batches))
    assert torch.equal(torch.cat([batch.positions for batch in kept]), torch.arange(len(trainer.val_batches.images)))
    for one, other in zip(kept, live, strict=True):
        assert torch.equal(one.state, other.state)
        assert torch.equal(one.labels, other.labels)
        assert torch.equal(one.positions, other.positions)


@pytest.mark.parametrize("place", ["memory", "disk"])
def test_all_parts_of_a_state_are_kept(make, tmp_path, place):
    """After the first convolution of a block its input waits beside its features for the shortcut."""
    trainer, _ = make("run", GREEDY | PLAIN | LAYERS)
    cache = cache_of(trainer, tmp_path, 2, place=place)
    kept = next(cache.training(trainer.train_batches, 0, 0, 0))
    live = next(LivePrefix(trainer.model, 2, trainer.autocast).training(trainer.train_batches, 0, 0, 0))
    assert isinstance(kept.state, tuple)
    for one, other in zip(kept.state, live.state, strict=True):
        assert one.shape == other.shape
        assert torch.allclose(one, other, atol=1e-6)


def test_states_are_kept_in_the_type_in_which_stages_hand_them_on(make, tmp_path):
    trainer, _ = make("run", GREEDY | PLAIN | {"training.precision": "bf16"})
    cache = cache_of(trainer, tmp_path, 1)
    kept = next(cache.validation(trainer.val_batches))
    live = next(LivePrefix(trainer.model, 1, trainer.autocast).validation(trainer.val_batches))
    assert kept.state.dtype == live.state.dtype == torch.bfloat16
    assert torch.equal(kept.state, live.state)


def test_a_cache_filled_in_one_go_holds_the_bits_of_one_that_was_deepened(make, tmp_path):
    trainer, _ = make("run", GREEDY)
    deepened = cache_of(trainer, tmp_path, 1)
    deepened.deepen(2)
    at_once = cache_of(trainer, tmp_path, 2)
    for epoch in range(2):
        one, other = (by_position(c.training(trainer.train_batches, 0, epoch, 0))[0][0] for c in (deepened, at_once))
        assert torch.equal(one, other)


@pytest.mark.parametrize("depth", [1, 2])
def test_a_loss_that_looks_at_images_gets_those_of_the_view(make, tmp_path, depth):
    trainer, _ = make("run", GREEDY)
    cache = cache_of(trainer, tmp_path, depth, keep_images=True)
    source = trainer.train_batches.in_order(trainer.val_batches.batch_size)
    for epoch in range(3):
        augmented = torch.cat([images for images, _, _ in source.epoch(key=epoch % 2)])
        for batch in cache.training(trainer.train_batches, 4, epoch, 0):
            assert torch.equal(batch.images, augmented[batch.positions])
    val = torch.cat([batch.images for batch in cache.validation(trainer.val_batches)])
    assert torch.equal(val, torch.cat([images for images, _, _ in trainer.val_batches]))


def test_images_are_left_out_where_no_loss_looks_at_them(make, tmp_path):
    trainer, _ = make("run", GREEDY)
    cache = cache_of(trainer, tmp_path, 1)
    assert all(len(batch.images) == 0 for batch in cache.training(trainer.train_batches, 0, 0, 0))
    assert all(len(batch.images) == 0 for batch in cache.validation(trainer.val_batches))


def test_filling_a_cache_draws_no_random_numbers_and_leaves_the_model_as_it_was(make, tmp_path):
    trainer, _ = make("run", GREEDY)
    trainer.model.freeze(2)
    before = {key: tensor.clone() for key, tensor in trainer.model.state_dict().items()}
    modes, random = [module.training for module in trainer.model.modules()], torch.get_rng_state()
    cache_of(trainer, tmp_path, 2)
    assert same(before, trainer.model.state_dict())
    assert [module.training for module in trainer.model.modules()] == modes
    assert torch.equal(torch.get_rng_state(), random)


# ---------------------------------------------------------------------- room


def test_deepening_frees_the_earlier_depth(make, tmp_path):
    trainer, _ = make("run", GREEDY | {"model.options.downsample_every": 1})
    cache = cache_of(trainer, tmp_path, 1)
    bytes_before = cache.bytes
    earlier = [weakref.ref(part) for split in ("train", "val") for part in cache._kept[split]]
    cache.deepen(2)
    gc.collect()
    assert [reference() for reference in earlier] == [None, None]
    assert cache.bytes == bytes_before / 2  # twice the channels at a quarter of the positions


def test_on_disk_nothing_is_left_of_an_earlier_depth_nor_of_a_cache_that_is_gone(make, tmp_path):
    trainer, _ = make("run", GREEDY)
    gc.collect()
    others = mapped_files()
    cache = cache_of(trainer, tmp_path, 1, place="disk")
    assert mapped_files() - others == 2  # train and val
    assert [path.name for path in tmp_path.iterdir()] == ["run"]
    cache.deepen(2)
    gc.collect()
    assert mapped_files() - others == 2
    del cache
    gc.collect()
    assert mapped_files() == others


def test_no_file_of_the_cache_is_left_in_the_run(make):
    _, run = train(make, "run", {"training.prefix_cache": "disk", "training.epochs": 1})
    files = {path.name for path in run.path.rglob("*") if path.is_file()}
    stages = {f"stage_{depth:02d}.safetensors" for depth in (1, 2, 3)}
    checkpoints = stages | {"last.safetensors", "last.json", "best.safetensors"}
    assert files == {"config.yaml", "environment.json", "events.jsonl", "run.json"} | checkpoints


def disk_is_full(*_):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_a_full_disk_is_one_error_that_says_what_to_set(make, monkeypatch):
    monkeypatch.setattr(os, "posix_fallocate", disk_is_full)
    trainer, run = make("run", GREEDY | {"training.prefix_cache": "disk", "training.epochs": 1})
    with pytest.raises(TrainingError, match=r"No space left on device.*training\.prefix_cache=off"):
        trainer.fit(run)
    assert not list(run.path.glob(".prefix-*"))


def test_too_little_memory_is_one_error_that_says_what_to_set(make, tmp_path):
    trainer, _ = make("run", GREEDY)
    cache = cache_of(trainer, tmp_path, 1)
    with pytest.raises(
        TrainingError, match=r"GiB in memory: .*set training\.prefix_views=1 or training\.prefix_cache=off"
    ):
        cache._allocate([torch.zeros(1, 4, 8, 8)], rows=2**50)


def no_room(monkeypatch):
    """No memory is free, and the disk breaks its promise."""
    monkeypatch.setattr(prefix, "available_memory", lambda: 0)
    monkeypatch.setattr(os, "posix_fallocate", disk_is_full)


def test_auto_without_room_runs_the_prefix_live_and_says_so(make, monkeypatch):
    _, live = train(make, "live", {"training.prefix_cache": "off"})
    no_room(monkeypatch)
    trainer, run = train(make, "auto", {"training.prefix_cache": "auto"})
    assert isinstance(trainer.prefix, LivePrefix)
    assert same(weights(run), weights(live))
    told = [event for event in run.read_events() if event["event"] == "no_prefix_cache"]
    assert [(event["stage"], "No space left" in event["reason"]) for event in told] == [("conv2", True)]


def test_auto_says_how_much_room_is_missing(make, monkeypatch):
    monkeypatch.setattr(prefix, "available_memory", lambda: 0)
    monkeypatch.setattr(prefix.shutil, "disk_usage", lambda _: type("Usage", (), {"free": 0}))
    _, run = train(make, "auto", {"training.prefix_cache": "auto", "training.epochs": 1})
    reason = next(event["reason"] for event in run.read_events() if event["event"] == "no_prefix_cache")
    assert "needs 0.0 GiB for the stage after depth 0" in reason
    assert "training.prefix_views=1" in reason


def test_room_that_ends_at_a_deeper_stage_ends_the_cache_there(make, monkeypatch):
    trainer, run = make("run", GREEDY | {"training.prefix_cache": "auto", "training.epochs": 1})
    leave = trainer._leave

    def leaving(phase):
        leave(phase)
        if phase.depth == 2:
            no_room(monkeypatch)

    monkeypatch.setattr(trainer, "_leave", leaving)
    trainer.fit(run)
    events = run.read_events()
    assert [event["stage"] for event in events if event["event"] == "no_prefix_cache"] == ["conv3"]
    assert ["prefix_bytes" in event for event in events if event["event"] == "phase"] == [False, True, False]


# ---------------------------------------------------------------------- parts of a batch


@pytest.mark.parametrize("images", [7, 0])
@pytest.mark.parametrize("parts", [1, 2, 3])
def test_a_batch_falls_into_parts_of_nearly_equal_size_in_order(parts, images):
    state = (torch.arange(14.0).reshape(7, 2), torch.arange(7.0))
    batch = PrefixBatch(state, torch.arange(7), torch.rand(images, 1, 2, 2), torch.arange(7, 14))
    split = batch.split(parts)
    sizes = [len(part.labels) for part in split]
    assert len(split) == parts
    assert max(sizes) - min(sizes) <= 1
    for index in range(2):
        assert torch.equal(torch.cat([part.state[index] for part in split]), state[index])
    for field in ("labels", "images", "positions"):
        assert torch.equal(torch.cat([getattr(part, field) for part in split]), getattr(batch, field))
    alone = PrefixBatch(state[0], batch.labels, batch.images, batch.positions)
    assert torch.equal(torch.cat([part.state for part in alone.split(parts)]), state[0])
