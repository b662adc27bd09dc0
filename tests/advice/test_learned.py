"""Networks that did not learn: the verdict says so, on which evidence, and own head and probe stand apart."""

import numpy as np
import pytest
from made_tables import table_of, table_of_predictions

from lwexplain.advice.question import Question
from lwexplain.advice.recommend import recommend
from lwexplain.table import TableInfo

N = 1000
LABELS = np.arange(N) % 10


def right_on(share, seed=0, labels=LABELS):
    """Predictions that are right on this share of the samples and name any other class on the rest."""
    rng = np.random.default_rng(seed)
    hit = rng.permutation(len(labels)) < round(share * len(labels))
    return np.where(hit, labels, (labels + rng.integers(1, labels.max() + 1, len(labels))) % (labels.max() + 1))


def network(head, probes, strategy="bp", labels=LABELS, **others):
    """A network trained by its last head, and its linear probes."""
    sources = {
        "head": [*[None] * (len(probes) - 1), right_on(head, 1, labels)],
        "linear_probe": [right_on(share, 2 + depth, labels) for depth, share in enumerate(probes)],
    }
    return table_of_predictions(labels, None, source=sources, strategy=strategy, others=others)


@pytest.mark.parametrize("strategy", ["bp", None, "deep_supervision"])
def test_an_own_head_at_chance_is_no_signal_however_readable_the_features_are(strategy):
    advice = recommend(network(0.103, [0.6, 0.7, 0.7], strategy))
    assert (advice.verdict, advice.depth, advice.prospects) == ("no_signal", None, [])
    assert "own head reaches 10.30 % on 1,000 val samples, not surely above the 10.00 % of always" in advice.reason
    assert "a linear probe of s2 reaches 70.00 %" in advice.reason
    assert (advice.own_head_accuracy, advice.own_probe_accuracy) == pytest.approx((0.103, 0.7))


@pytest.mark.parametrize(
    ("head", "probes"),
    [(0.29, [0.5, 0.6, 0.7]), (0.29, [0.7, 0.6, 0.45]), (0.5, [0.5, 0.7, 0.8]), (0.15, [0.2, 0.25, 0.35])],
)
@pytest.mark.parametrize("strategy", ["bp", None, "deep_supervision"])
def test_an_own_head_far_below_its_probe_is_undertrained(head, probes, strategy):
    advice = recommend(network(head, probes, strategy))
    assert (advice.verdict, advice.depth, advice.prospects) == ("undertrained", None, [])
    assert f"own head reaches {100 * head:.2f} % on 1,000 val samples, but a linear probe of" in advice.reason
    assert f"reaches {100 * max(probes):.2f} %" in advice.reason
    assert "train it further" in advice.reason


def test_an_undertrained_network_can_still_be_cut_as_it_is():
    advice = recommend(network(0.29, [0.5, 0.72, 0.71]), Question(retrain=False, tolerance=0.02))
    assert (advice.verdict, advice.depth) == ("undertrained", 2)
    assert "train it further first" in advice.reason


@pytest.mark.parametrize(
    ("head", "probes"),
    [
        (0.67, [0.5, 0.6, 0.7]),
        (0.85, [0.6, 0.8, 0.88]),
        (0.6, [0.5, 0.6, 0.59]),
        (0.9, [0.60, 0.80, 0.90, 0.55]),
        (0.16, [0.15, 0.17, 0.18]),  # little is learned, but the head reads what there is
    ],
)
def test_a_head_that_reads_about_as_much_as_its_probe_is_no_cause_for_concern(head, probes):
    advice = recommend(network(head, probes))
    assert advice.verdict not in ("undertrained", "no_signal")
    assert f"On val the network's own head reaches {100 * head:.2f} %" in advice.reason
    assert f"a linear probe of its last stage reaches {100 * probes[-1]:.2f} %" in advice.reason


def test_features_below_a_head_that_guesses_can_be_cut_with_a_fresh_head():
    advice = recommend(network(0.103, [0.5, 0.72, 0.71]), Question(retrain=False, tolerance=0.02))
    assert (advice.verdict, advice.depth) == ("undertrained", 2)
    assert "own head reaches 10.30 %" in advice.reason
    assert recommend(network(0.103, [0.1, 0.1, 0.1]), Question(retrain=False)).verdict == "no_signal"


def test_few_samples_do_not_make_a_head_surely_worse():
    labels = np.arange(60) % 10
    assert recommend(network(0.4, [0.5, 0.5], labels=labels)).verdict != "undertrained"


def test_random_labels_are_no_signal_by_bp_and_layer_wise():
    rng = np.random.default_rng(0)
    for _ in range(6):
        guesses = [rng.integers(0, 10, N) for _ in range(5)]
        sources = {"head": [None] * 4 + [rng.integers(0, 10, N)], "linear_probe": guesses}
        assert recommend(table_of_predictions(LABELS, None, source=sources, strategy="bp")).verdict == "no_signal"
        assert recommend(table_of_predictions(LABELS, guesses)).verdict == "no_signal"


def test_layer_wise_heads_below_their_probes_are_too_weak_and_not_undertrained():
    table = table_of([0.25, 0.28, 0.29], others={("linear_probe_accuracy", "val"): [0.6, 0.7, 0.7]})
    assert recommend(table).verdict == "heads_too_weak"


def test_a_network_of_one_stage_trained_by_bp_is_undertrained_too():
    assert recommend(network(0.29, [0.7])).verdict == "undertrained"


def test_without_the_networks_own_output_the_probes_alone_are_judged():
    probes = [right_on(share, depth) for depth, share in enumerate([0.5, 0.7, 0.7])]
    advice = recommend(table_of_predictions(LABELS, probes, source="linear_probe", strategy=None))
    assert advice.depth is not None
    assert advice.own_head_accuracy is None
    assert "its own head being unknown" in recommend(
        table_of_predictions(LABELS, probes[:2], source="linear_probe", strategy=None)
    ).reason  # fmt: skip


def test_test_figures_do_not_make_a_network_undertrained():
    bad = {("head_accuracy", "test"): [np.nan, np.nan, 0.1], ("linear_probe_accuracy", "test"): [0.9, 0.9, 0.9]}
    table = network(0.69, [0.5, 0.6, 0.7])
    assert recommend(table_with(table, bad)).verdict == recommend(table).verdict


def table_with(table, rows):
    """The same table with further rows."""
    from made_tables import row_of

    from lwexplain.results import metrics_frame

    info = TableInfo.of(table)
    further = [
        row_of(info.stages, metric, split, depth, value, N)
        for (metric, split), values in rows.items()
        for depth, value in enumerate(values, start=1)
        if np.isfinite(value)
    ]
    return metrics_frame([*table.to_dict("records"), *further], info)
