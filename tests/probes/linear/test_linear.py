"""The linear probe solves scikit-learn's logistic regression, and reads test once its C is fixed."""

import threading
from dataclasses import dataclass, field

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from lwexplain.errors import ProbeError
from lwexplain.probes.base import Measurement, Predictions
from lwexplain.probes.linear import logistic
from lwexplain.probes.linear.logistic import LogisticLoss
from lwexplain.probes.linear.probe import GRID, Linear, fit_linear_probe, fit_linear_probes, remembered_probe
from lwexplain.processes import World


def measured(stage, **options):
    return Linear(**options).measure_all([stage])[stage.name]


def objective(weight, bias, x, y, c):
    """Mean cross-entropy + |W|^2 / (2 C N), W (K, D) on standardised x, in float64."""
    logits = x @ weight.T + bias
    top = logits.max(1, keepdims=True)
    losses = np.log(np.exp(logits - top).sum(1)) + top[:, 0] - logits[np.arange(len(y)), y]
    return float(losses.mean() + np.square(weight).sum() / (2 * c * len(y)))


def scikit_learns(stage, c):
    train = stage.features["train"].astype(np.float64)
    scaler = StandardScaler().fit(train)
    reference = LogisticRegression(C=c, tol=1e-10, max_iter=20_000)
    return scaler, reference.fit(scaler.transform(train), stage.labels["train"])


@pytest.mark.parametrize("offset", [3.0, 1e4])
@pytest.mark.parametrize(("c", "dims"), [(1e-3, 12), (1.0, 12), (1e2, 12), (1e-2, 700)])
def test_loss_weights_and_accuracy_equal_scikit_learns(make_stage, c, dims, offset):
    stage = make_stage(classes=4, dims=dims, spread=3.0, sizes=dict.fromkeys(("train", "val"), (150, 60, 90, 200)))
    stage.features = {split: x * np.logspace(-1, 2, dims).astype("f") + offset for split, x in stage.features.items()}
    probe = fit_linear_probe(stage, (c,))
    scaler, reference = scikit_learns(stage, c)
    train, val = (scaler.transform(stage.features[split].astype(np.float64)) for split in ("train", "val"))
    y = stage.labels["train"]
    least = objective(reference.coef_, reference.intercept_, train, y, c)
    weight = probe.weight.numpy() * scaler.scale_
    bias = probe.bias.numpy() + probe.weight.numpy() @ scaler.mean_
    assert probe.converged
    assert probe.loss == pytest.approx(least, rel=1e-6)
    assert objective(weight, bias, train, y, c) == pytest.approx(least, rel=1e-6)
    np.testing.assert_allclose(weight - weight.mean(0), reference.coef_, atol=5e-3 * np.abs(reference.coef_).max())
    predicted = probe.logits(stage.features["val"]).argmax(1)
    assert np.mean(predicted == stage.labels["val"]) == pytest.approx(
        reference.score(val, stage.labels["val"]), abs=2e-3
    )


def test_all_stages_and_all_c_at_once_equal_each_alone(make_stage):
    def made():
        return [make_stage(f"s{d}", d, dims=d, spread=2.5, seed=d) for d in (2, 40, 9)]

    together = made()
    results = Linear().measure_all(together)
    assert list(results) == ["s2", "s40", "s9"]
    for stage, other in zip(together, made(), strict=True):
        one, alone = fit_linear_probe(stage), fit_linear_probe(other)
        assert one.c == alone.c
        assert one.accuracies == alone.accuracies
        assert one.loss == pytest.approx(alone.loss, rel=1e-6)
        for c in GRID:
            x = StandardScaler().fit_transform(stage.features["train"].astype(np.float64))
            model = LogisticRegression(C=c, tol=1e-10, max_iter=20_000).fit(x, stage.labels["train"])
            single = fit_linear_probe(stage, (c,))
            least = objective(model.coef_, model.intercept_, x, stage.labels["train"], c)
            assert single.loss == pytest.approx(least, rel=1e-6)


def test_little_memory_changes_nothing_but_the_reading(make_stage, tmp_path, monkeypatch):
    cached = []
    make_loss = LogisticLoss.__init__

    def watched(self, *args, **options):
        cached.append(options["cached"])
        make_loss(self, *args, **options)

    monkeypatch.setattr(LogisticLoss, "__init__", watched)
    results = []
    for memory in (2**29, 2**17, 2**12):
        stages = [make_stage(f"s{d}", d, dims=d, spread=2.5, memory_bytes=memory) for d in (3, 24)]
        for stage in stages:
            for split, x in stage.features.items():
                np.save(tmp_path / "x.npy", x)
                stage.features[split] = np.load(tmp_path / "x.npy", mmap_mode="r")
                (tmp_path / "x.npy").unlink()
        cached.clear()
        Linear().measure_all(stages)
        results.append(([fit_linear_probe(stage) for stage in stages], list(cached)))
    assert results[0][1] == [True, True] * 2  # to choose, and to end
    assert len(results[1][1]) > 4  # several groups
    assert False in results[2][1]
    for probes, _ in results[1:]:
        for one, other in zip(probes, results[0][0], strict=True):
            assert one.c == other.c
            assert one.loss == pytest.approx(other.loss, rel=1e-6)
            torch.testing.assert_close(one.weight, other.weight, rtol=0, atol=2e-3 * float(other.weight.abs().max()))


@dataclass(frozen=True)
class Threads(World):
    """Processes played by threads of one."""

    meeting: threading.Barrier = field(default_factory=lambda: threading.Barrier(1))
    parts: dict[int, torch.Tensor] = field(default_factory=dict)

    def total(self, tensor):
        self.parts[self.rank] = tensor
        self.meeting.wait(30)
        found = sum(self.parts[rank] for rank in range(self.size))
        self.meeting.wait(30)
        return found


def test_several_processes_find_what_one_finds(make_stage, monkeypatch):
    def made():
        return [make_stage(f"s{d}", d, dims=d, spread=2.5) for d in (3, 24)]

    expected = Linear().measure_all(made())
    first = Threads(0, 3, threading.Barrier(3))
    worlds = {rank: Threads(rank, 3, first.meeting, first.parts) for rank in range(3)}
    found = {}

    def work(rank):
        found[rank] = Linear().measure_all(made())

    threads = [threading.Thread(target=work, args=(rank,), name=str(rank)) for rank in worlds]
    monkeypatch.setattr(
        "lwexplain.probes.linear.probe.current_world", lambda: worlds[int(threading.current_thread().name)]
    )
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert sorted(found) == [0, 1, 2]
    for results in found.values():
        for name, rows in results.items():
            for row, other in zip(rows, expected[name], strict=True):
                if isinstance(row, Measurement):
                    assert row == other
                else:
                    np.testing.assert_array_equal(row.predicted, other.predicted)


def test_rows_and_predictions(make_stage):
    stage = make_stage(spread=2.0, sizes=dict.fromkeys(("train", "val", "test"), (20, 30, 5)))
    stage.labels["test"][stage.labels["test"] == 2] = 0
    results = measured(stage)
    rows = {(row.split, row.class_): row for row in results if isinstance(row, Measurement)}
    classes = stage.classes
    assert list(rows) == [
        ("train", None),
        *[("val", name) for name in (None, *classes)],
        *[("test", name) for name in (None, *classes[:2])],
    ]
    predictions = {item.split: item for item in results if isinstance(item, Predictions)}
    assert set(predictions) == {"val", "test"}
    for (split, name), row in rows.items():
        own = np.ones(len(stage.labels[split]), bool) if name is None else stage.labels[split] == classes.index(name)
        assert row.metric == "linear_probe_accuracy"
        assert row.n == own.sum()
        assert row.low <= row.value <= row.high
        assert row.note.startswith("C=")
        if split in predictions:
            assert predictions[split].source == "linear_probe"
            assert row.value == np.mean(predictions[split].predicted[own] == stage.labels[split][own])


def test_c_is_chosen_on_val_ties_to_the_smaller(make_stage):
    stage = make_stage(spread=3.0)
    probe = fit_linear_probe(stage)
    best = max(probe.accuracies.values())
    assert probe.c == min(c for c, value in probe.accuracies.items() if value == best)
    assert list(probe.accuracies) == list(GRID)


def test_the_ends_of_the_grid_are_named(make_stage):
    stage = make_stage(spread=3.0)
    chosen = fit_linear_probe(stage).c
    assert measured(stage, grid=[chosen])[0].note == f"C={chosen:g}"
    assert measured(stage, grid=[chosen, chosen * 1e-6])[0].note == f"C={chosen:g}, largest C of the grid"
    apart = make_stage(spread=0.01)  # all C tie
    assert measured(apart, grid=[1.0, 10.0])[0].note == "C=1, smallest C of the grid"


def test_test_is_read_once_and_after_the_choice(make_stage):
    stage = make_stage()
    reads = []

    class Watched(dict):
        def __getitem__(self, split):
            reads.append((split, remembered_probe(stage) is not None))
            return super().__getitem__(split)

    stage.features = Watched(stage.features)
    measured(stage)
    assert [fitted for split, fitted in reads if split == "test"] == [True]


def test_changing_test_changes_nothing_but_test(make_stage):
    one, other = make_stage(spread=2.0), make_stage(spread=2.0)
    other.features["test"] = other.features["test"][::-1] + 5
    first, second = (fit_linear_probe(stage) for stage in (one, other))
    assert first.c == second.c
    assert torch.equal(first.weight, second.weight)


def test_the_fit_is_shared_and_works_as_a_head(make_stage):
    stage = make_stage()
    measured(stage)
    probe = fit_linear_probe(stage)
    assert fit_linear_probe(stage) is probe
    x = torch.from_numpy(stage.features["val"]).requires_grad_()
    logits = probe.head(x)
    np.testing.assert_allclose(logits.detach().numpy(), probe.logits(stage.features["val"]), atol=1e-4)
    logits.sum().backward()
    assert x.grad is not None


def test_no_convergence_is_said(make_stage, monkeypatch):
    monkeypatch.setattr(logistic, "FIRST_ITERATIONS", 1)
    monkeypatch.setattr(logistic, "MAX_ITERATIONS", 1)
    assert measured(make_stage(spread=2.0), grid=[10.0])[0].note == "C=10, not converged"


def test_constant_duplicate_and_many_features_are_no_obstacle(make_stage):
    stage = make_stage(dims=4, spread=1.5)
    reference = fit_linear_probe(stage, (1.0,)).logits(stage.features["val"])
    padded = make_stage(dims=4, spread=1.5)
    padded.features = {s: np.c_[x, np.full(len(x), 0.3, "f")] for s, x in padded.features.items()}
    np.testing.assert_allclose(fit_linear_probe(padded, (1.0,)).logits(padded.features["val"]), reference, atol=1e-3)
    wide = make_stage(dims=200)
    assert fit_linear_probe(wide).converged
    flat = make_stage(dims=2)
    flat.features = {s: np.ones_like(x) for s, x in flat.features.items()}
    frequencies = fit_linear_probe(flat, (1.0,)).logits(flat.features["train"])[0]
    counts = np.bincount(flat.labels["train"])
    np.testing.assert_allclose(np.exp(frequencies) / np.exp(frequencies).sum(), counts / counts.sum(), atol=1e-3)


def test_unusable_data_is_refused_for_its_own_stage_only(make_stage):
    good, no_val, one_class, narrow = (make_stage(name) for name in ("good", "no_val", "one_class", "narrow"))
    del no_val.features["val"]
    one_class.labels["train"][:] = 1
    narrow.features["val"] = narrow.features["val"][:, :2]
    found = Linear().measure_all([good, no_val, one_class, narrow])
    assert isinstance(found["good"], list)
    for stage, message in (
        (no_val, "no features for split 'val'"),
        (one_class, "train holds one class only"),
        (narrow, "train has 5 features, val 2"),
    ):
        assert message in str(found[stage.name])
        with pytest.raises(ProbeError, match=message):
            fit_linear_probe(stage)
    with pytest.raises(ProbeError, match="grid of C"):
        Linear(grid=[0.0])


def direct(loss, stage, weights, c):
    """The loss by torch's cross-entropy on turned float64 features, and its gradient by autograd."""
    x = (
        loss.standardise.scale
        * (torch.from_numpy(stage.features["train"]).double() - loss.standardise.mean)
        @ loss.axes
    )
    w = weights.detach().requires_grad_()
    logits = (x @ w[:-1] + w[-1]) @ loss.class_axes.T
    value = torch.nn.functional.cross_entropy(logits, torch.from_numpy(stage.labels["train"]))
    value = value + w[:-1].square().sum() / (2 * c * len(x))
    return value.detach(), torch.autograd.grad(value, w)[0]


@pytest.mark.parametrize("size", [0.1, 3.0, 300.0])
@pytest.mark.parametrize("cpu_bytes", [1, 2**20])
def test_loss_and_gradient_are_those_of_autograd_on_any_axes(make_stage, monkeypatch, size, cpu_bytes):
    monkeypatch.setattr(logistic, "CPU_BYTES", cpu_bytes)
    stage = make_stage(dims=7, classes=4, sizes={"train": (90, 30, 150, 60)})
    loss = LogisticLoss(stage)
    generator = torch.Generator().manual_seed(1)
    weights = size * torch.randn(3, len(loss.start()), 4, generator=generator, dtype=torch.float64)
    cs = torch.tensor([0.01, 1.0, 100.0], dtype=torch.float64)
    before, _ = loss.finish(loss.sums(weights), weights, cs)
    weights, levels = loss.turn(weights)
    values, gradients = loss.finish(loss.sums(weights), weights, cs)
    torch.testing.assert_close(values, before, rtol=1e-6, atol=0)
    assert len(levels) == 3
    for place, c in enumerate(cs.tolist()):
        value, gradient = direct(loss, stage, weights[place], c)
        torch.testing.assert_close(values[place], value, rtol=1e-6, atol=0)
        torch.testing.assert_close(gradients[place], gradient, rtol=0, atol=2e-6 * float(gradient.abs().max()))


@pytest.mark.parametrize("cached", [True, False])
def test_a_map_on_raw_features_comes_back_from_new_axes(make_stage, cached):
    stage = make_stage(dims=7, classes=4)
    turned, new = LogisticLoss(stage, cached=cached), LogisticLoss(stage, cached=cached)
    generator = torch.Generator().manual_seed(2)
    weights = torch.randn(1, len(new.start()), 4, generator=generator, dtype=torch.float64)
    (weights,), _ = turned.turn(weights)
    weight, bias = turned.on_raw_features(weights)
    again = new.from_raw_features(weight, bias)
    cs = torch.ones(1, dtype=torch.float64)
    values = [loss.finish(loss.sums(w[None]), w[None], cs)[0] for loss, w in ((turned, weights), (new, again))]
    torch.testing.assert_close(*values, rtol=1e-6, atol=0)
    for part, expected in zip(new.on_raw_features(again), (weight, bias), strict=True):
        torch.testing.assert_close(part, expected, rtol=1e-9, atol=1e-9)


def test_the_fit_chosen_from_a_grid_is_as_exact_as_one_of_its_own(make_stage):
    stage = make_stage(dims=30, spread=2.5)
    chosen = fit_linear_probe(stage)
    alone = fit_linear_probe(stage, (chosen.c,))
    assert chosen.converged
    assert alone.converged
    assert chosen.loss == pytest.approx(alone.loss, rel=1e-6)


def test_a_group_is_fitted_once(make_stage):
    stages = [make_stage("a"), make_stage("b", dims=3)]
    fit_linear_probes(stages, GRID, World())
    probes = [fit_linear_probe(stage) for stage in stages]
    fit_linear_probes(stages, GRID, World())
    assert all(fit_linear_probe(stage) is probe for stage, probe in zip(stages, probes, strict=True))


@pytest.mark.parametrize("classes", [2, 3])
@pytest.mark.parametrize("c", [1e-3, 1e-1, 10.0])
def test_probabilities_equal_scikit_learns_for_two_classes_and_more(make_stage, classes, c):
    counts = dict.fromkeys(("train", "val"), (90, 60, 50)[:classes])
    stage = make_stage(classes=classes, dims=6, spread=3.0, sizes=counts)
    scaler, reference = scikit_learns(stage, c)
    expected = reference.predict_proba(scaler.transform(stage.features["val"].astype(np.float64)))
    found = torch.softmax(torch.from_numpy(fit_linear_probe(stage, (c,)).logits(stage.features["val"])), 1)
    np.testing.assert_allclose(found, expected, atol=2e-4)


@pytest.mark.parametrize("value", [0.0, 3.7, 1e30])
def test_a_stage_that_does_not_vary_guesses_and_takes_nothing_from_the_others(make_stage, value):
    stages = [make_stage("alive", 1), make_stage("constant", 2), make_stage("broken", 3)]
    alone = [row for row in Linear().measure_all([make_stage("alive", 1)])["alive"] if isinstance(row, Measurement)]
    for split, x in stages[1].features.items():
        stages[1].features[split] = np.full_like(x, value)
    stages[2].features["val"][4, 0] = np.nan
    found = Linear().measure_all(stages)
    assert [row for row in found["alive"] if isinstance(row, Measurement)] == alone
    rows = [row for row in found["constant"] if isinstance(row, Measurement) and row.class_ is None]
    assert [row.value for row in rows] == pytest.approx([38 / 87] * 3)
    assert all("do not vary: always the most frequent class" in row.note for row in rows)
    assert isinstance(found["broken"], ProbeError)
