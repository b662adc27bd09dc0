"""The linear probe solves scikit-learn's logistic regression, and reads test once its C is fixed."""

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from lwexplain.errors import ProbeError
from lwexplain.probes.base import Measurement, Predictions
from lwexplain.probes.lbfgs import minimise
from lwexplain.probes.linear import Linear, fit_linear_probe


@pytest.mark.parametrize(("c", "dims"), [(1e-3, 12), (1e-1, 12), (1e2, 12), (1e-2, 700)])
def test_weights_and_accuracy_equal_scikit_learns(make_stage, c: float, dims: int) -> None:
    stage = make_stage(classes=4, dims=dims, spread=3.0, sizes=dict.fromkeys(("train", "val"), (150, 60, 90, 200)))
    stage.features = {split: x * np.logspace(-2, 2, dims).astype("f") + 3 for split, x in stage.features.items()}
    probe = fit_linear_probe(stage, (c,))
    scaler = StandardScaler().fit(stage.features["train"].astype(np.float64))
    reference = LogisticRegression(C=c, tol=1e-9, max_iter=10_000)
    reference.fit(scaler.transform(stage.features["train"].astype(np.float64)), stage.labels["train"])
    assert probe.converged
    weight = probe.weight.numpy() * scaler.scale_
    np.testing.assert_allclose(weight - weight.mean(0), reference.coef_, atol=2e-3 * np.abs(reference.coef_).max())
    logits = probe.logits(stage.features["val"])
    expected = reference.decision_function(scaler.transform(stage.features["val"].astype(np.float64)))
    np.testing.assert_allclose(
        logits - logits.mean(1, keepdims=True), expected - expected.mean(1, keepdims=True), atol=0.02
    )
    accuracy = np.mean(logits.argmax(1) == stage.labels["val"])
    assert accuracy == pytest.approx(np.mean(expected.argmax(1) == stage.labels["val"]), abs=5e-3)


def test_rows_and_predictions(make_stage) -> None:
    stage = make_stage(spread=2.0)
    results = Linear().measure(stage)
    rows = {row.split: row for row in results if isinstance(row, Measurement)}
    assert list(rows) == ["train", "val", "test"]
    for split, row in rows.items():
        assert row.metric == "linear_probe_accuracy"
        assert row.n == len(stage.labels[split])
        assert row.low < row.value <= row.high
        assert row.note.startswith("C=")
    predictions = {item.split: item for item in results if isinstance(item, Predictions)}
    assert set(predictions) == {"val", "test"}
    for split, item in predictions.items():
        assert item.source == "linear_probe"
        assert np.mean(item.predicted == stage.labels[split]) == rows[split].value


def test_c_is_chosen_on_val_ties_to_the_smaller(make_stage) -> None:
    stage = make_stage(spread=3.0)
    probe = fit_linear_probe(stage)
    best = max(probe.accuracies.values())
    assert probe.c == min(c for c, value in probe.accuracies.items() if value == best)
    assert len(probe.accuracies) == 6


def test_test_is_read_once_and_after_the_choice(make_stage) -> None:
    stage = make_stage()
    reads = []

    class Watched(dict):
        def __getitem__(self, split):
            reads.append((split, "linear_probe" in " ".join(stage.memo)))
            return super().__getitem__(split)

    stage.features = Watched(stage.features)
    Linear().measure(stage)
    assert [fitted for split, fitted in reads if split == "test"] == [True]


def test_changing_test_changes_nothing_but_test(make_stage) -> None:
    one, other = make_stage(spread=2.0), make_stage(spread=2.0)
    other.features["test"] = other.features["test"][::-1] + 5
    first, second = (fit_linear_probe(stage) for stage in (one, other))
    assert first.c == second.c
    assert torch.equal(first.weight, second.weight)


def test_the_fit_is_shared_and_works_as_a_head(make_stage) -> None:
    stage = make_stage()
    probe = fit_linear_probe(stage)
    assert fit_linear_probe(stage) is probe
    x = torch.from_numpy(stage.features["val"]).requires_grad_()
    logits = probe.head(x)
    np.testing.assert_allclose(logits.detach().numpy(), probe.logits(stage.features["val"]), atol=1e-4)
    logits.sum().backward()
    assert x.grad is not None


def test_no_convergence_is_said(make_stage, monkeypatch) -> None:
    monkeypatch.setattr("lwexplain.probes.linear.minimise", lambda *args, **kw: minimise(*args, **kw, max_iterations=1))
    rows = Linear(grid=[10.0]).measure(make_stage(spread=2.0))
    assert rows[0].note == "C=10, not converged"


def test_constant_duplicate_and_many_features_are_no_obstacle(make_stage) -> None:
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


def test_unusable_data_is_refused(make_stage) -> None:
    stage = make_stage()
    del stage.features["val"]
    with pytest.raises(ProbeError, match="no features for split 'val'"):
        Linear().measure(stage)
    stage = make_stage()
    stage.labels["train"][:] = 1
    with pytest.raises(ProbeError, match="train holds one class only"):
        Linear().measure(stage)
    stage = make_stage()
    stage.features["val"] = stage.features["val"][:, :2]
    with pytest.raises(ProbeError, match="train has 5 features, val 2"):
        Linear().measure(stage)
    with pytest.raises(ProbeError, match="grid of C"):
        Linear(grid=[0.0])


def test_minimise_finds_the_minimum_of_a_stretched_quadratic() -> None:
    scale = torch.logspace(-1.5, 1.5, 20, dtype=torch.float64)
    target = torch.linspace(-1, 1, 20, dtype=torch.float64)

    def quadratic(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return 0.5 * (scale * (x - target).square()).sum(), scale * (x - target)

    for inverse in (1 / scale, torch.ones_like(scale)):
        found = minimise(quadratic, torch.zeros_like(scale), inverse, tolerance=1e-9, max_iterations=2000)
        assert found.converged
        torch.testing.assert_close(found.x, target, atol=1e-5, rtol=0)
