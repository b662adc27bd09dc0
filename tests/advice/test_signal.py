"""Tests against always guessing the most frequent class, beside scipy's exact tests and on made-up populations."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from made_tables import table_of, table_of_predictions
from scipy.stats import binomtest

from lwexplain.advice.curve import DepthCurve, bootstrap_curve, curve_of_hits
from lwexplain.advice.recommend import recommend
from lwexplain.advice.rules import has_signal, stop_training
from lwexplain.advice.signal import LEVEL, GuessTest


def curve_of(accuracy, n, against=None):
    count = len(accuracy)
    names = [f"s{k}" for k in range(count)]
    found = None if against is None else np.array(against, dtype=float)
    return DepthCurve("head", names, list(range(1, count + 1)), np.array(accuracy), np.empty((0, count)), n, found)


@given(st.integers(0, 300), st.integers(0, 300))
def test_a_paired_test_is_mcnemars_exact_one(won, lost):
    test = GuessTest.of(curve_of([0.5], 1000, [[won], [lost]]), 0.5)
    expected = binomtest(won, won + lost, 0.5, alternative="greater").pvalue if won + lost else 1.0
    assert test.p[0] == pytest.approx(expected, rel=1e-9)


@given(st.integers(1, 400), st.data(), st.floats(0.05, 0.98))
def test_an_unpaired_test_is_the_exact_binomial_one(n, data, chance):
    right = data.draw(st.integers(0, n))
    test = GuessTest.of(curve_of([right / n], n), chance)
    assert test.p[0] == pytest.approx(binomtest(right, n, chance, alternative="greater").pvalue, rel=1e-6, abs=1e-300)


def test_the_joint_p_of_several_depths_is_that_of_simes():
    """Worked by hand: sorted p-values 2^-10, 0.1719, 0.6230; times 3, 3/2 and 1; the least counts."""
    test = GuessTest.of(curve_of([0.5] * 3, 1000, [[10, 7, 5], [0, 3, 5]]), 0.5)
    assert np.sort(test.p) == pytest.approx([2**-10, 0.171875, 0.623046875])
    assert test.joint_p == pytest.approx(3 * 2**-10)
    alike = GuessTest.of(curve_of([0.5] * 17, 1000, [[10] * 17, [0] * 17]), 0.5)
    assert alike.joint_p == pytest.approx(2**-10), "stages that are right on the same samples count once"


@pytest.mark.parametrize(("share", "classes"), [(0.1, 10), (0.3, 8), (0.7, 2)])
def test_networks_that_guess_seldom_pass(share, classes):
    """1,000 networks of six stages that name classes at random, as often as they come up."""
    rng = np.random.default_rng(0)
    shares = np.full(classes, (1 - share) / (classes - 1))
    shares[0] = share
    passed = 0
    for _ in range(1000):
        labels = rng.choice(classes, size=200, p=shares)
        hits = rng.choice(classes, size=(6, 200), p=shares) == labels
        frequent = labels == np.bincount(labels).argmax()
        against = [(hits & ~frequent).sum(1), (frequent & ~hits).sum(1)]
        passed += GuessTest.of(curve_of(hits.mean(1), 200, against), float(frequent.mean())).passed
    assert passed <= 1000 * LEVEL + 3 * np.sqrt(1000 * LEVEL)


def rare(positives, found, alarms, n=1000):
    """Labels and predictions of a network that finds ``found`` of the positives and raises ``alarms`` false ones."""
    labels = np.repeat([0, 1], [n - positives, positives])
    predicted = np.zeros(n, dtype=int)
    predicted[n - found :] = 1
    predicted[:alarms] = 1
    return labels, predicted


@pytest.mark.parametrize(
    ("positives", "found", "alarms", "n", "signal"),
    [
        (20, 10, 0, 1000, True),  # 10 against 0: p = 0.001, though 99 % of 1,000 is within two errors of 98 %
        (20, 16, 2, 1000, True),
        (50, 40, 10, 5000, True),
        (20, 5, 0, 1000, False),  # 5 against 0: p = 0.03
        (20, 10, 10, 1000, False),
        (20, 0, 0, 1000, False),  # the guess itself
        (20, 18, 40, 1000, False),
    ],
)
@pytest.mark.parametrize("strategy", ["greedy", "bp"])
def test_rare_positives_are_found_or_not(positives, found, alarms, n, signal, strategy):
    labels, predicted = rare(positives, found, alarms, n)
    if strategy == "greedy":
        table = table_of_predictions(labels, [predicted] * 3)
    else:
        sources = {"head": [None, None, predicted], "linear_probe": [predicted] * 3}
        table = table_of_predictions(labels, None, source=sources, strategy="bp")
    advice = recommend(table)
    assert (advice.verdict != "no_signal") == signal
    assert (advice.depth is not None) == signal
    assert any(note.startswith("uneven classes: the largest holds") for note in advice.notes)


def test_the_reason_never_says_that_more_is_not_above_less():
    labels, predicted = rare(20, 5, 0)
    reason = recommend(table_of_predictions(labels, [predicted] * 2)).reason
    assert "reaches 98.50 % on 1,000 val samples, not surely above the 98.00 % of always guessing" in reason
    assert "(it alone is right on 5 samples, the guess alone on 0; p = 0.031)" in reason
    labels, predicted = rare(20, 18, 40)
    reason = recommend(table_of_predictions(labels, [predicted] * 2)).reason
    assert "reaches 95.80 % on 1,000 val samples, not above the 98.00 % of always guessing" in reason


def test_balanced_accuracy_stands_beside_in_reason_and_fields():
    labels, predicted = rare(20, 10, 0)
    balanced = {("head_balanced_accuracy", "val"): [0.75, 0.75], ("linear_probe_balanced_accuracy", "val"): [0.7, 0.8]}
    probes = {("linear_probe_accuracy", "val"): [0.99, 0.99]}
    advice = recommend(table_of_predictions(labels, [predicted] * 2, others=balanced | probes))
    assert (advice.balanced_accuracy, advice.own_head_balanced_accuracy, advice.own_probe_balanced_accuracy) == (
        0.75, 0.75, 0.8,
    )  # fmt: skip
    assert "own head reaches 99.00 % (balanced 75.00 %)" in advice.reason
    assert "last stage reaches 99.00 % (balanced 80.00 %)" in advice.reason
    assert [prospect.balanced_accuracy for prospect in advice.prospects] == [0.75, 0.75]


def test_a_table_that_does_not_know_the_most_frequent_class_is_judged_by_its_share_and_says_so():
    table = table_of([0.3, 0.5], n=500)
    assert not any("most frequent class" in note for note in recommend(table).notes)
    del table.attrs["patterns"]["head"]["frequent"]
    assert bootstrap_curve(table).against_guess is None
    advice = recommend(table)
    assert advice.depth == 2
    assert any("does not say which val samples are of the most frequent class" in note for note in advice.notes)
    labels, predicted = rare(20, 10, 0)
    table = table_of_predictions(labels, [predicted])
    del table.attrs["patterns"]["head"]["frequent"]
    advice = recommend(table)
    assert advice.verdict == "no_signal", "99 % is not surely above a share of 98 % that is not the same samples'"
    assert "99.00 % on 1,000 val samples, not surely above the 98.00 %" in advice.reason


def test_patterns_that_contradict_the_share_of_the_most_frequent_class_are_not_paired():
    table = table_of([0.5], n=500)
    table.attrs["chance"] = 0.2
    assert bootstrap_curve(table).against_guess is None


def test_signal_is_judged_against_the_most_frequent_class():
    hits = [np.arange(500) < 305]
    assert has_signal(curve_of_hits(hits), chance=0.5)
    assert not has_signal(curve_of_hits(hits), chance=0.6)
    assert has_signal(curve_of_hits(hits, np.arange(500) < 290), chance=0.58), "15 against 0"


def test_training_on_uneven_classes_goes_on_where_the_rare_class_is_found():
    labels, predicted = rare(20, 10, 0)
    hits, frequent = [predicted == labels], labels == 0
    assert stop_training(hits, 0.98, frequent=frequent) is None
    assert "no signal: 98.0%" in stop_training([frequent], 0.98, frequent=frequent)
