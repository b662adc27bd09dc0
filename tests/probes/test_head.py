"""The head probe reports the logits it is given."""

import numpy as np
import pytest

from lwexplain.errors import ProbeError
from lwexplain.probes.base import Measurement, Predictions
from lwexplain.probes.head import Head


def test_rows_and_predictions(make_stage):
    stage = make_stage()
    stage.logits = {s: np.eye(3, dtype="f")[(y + (np.arange(len(y)) % 4 == 0)) % 3] for s, y in stage.labels.items()}
    results = Head().measure(stage)
    rows = {row.split: row for row in results if not isinstance(row, Predictions) and row.class_ is None}
    assert list(rows) == ["train", "val", "test"]
    for split in ("val", "test"):
        predicted = next(item.predicted for item in results if isinstance(item, Predictions) and item.split == split)
        own = {row.class_: row for row in results if isinstance(row, Measurement) and row.split == split and row.class_}
        assert list(own) == stage.classes
        for k, name in enumerate(stage.classes):
            chosen = stage.labels[split] == k
            assert own[name].n == chosen.sum()
            assert own[name].value == np.mean(predicted[chosen] == k)
            assert own[name].low <= own[name].value <= own[name].high
    n = len(stage.labels["val"])
    assert rows["val"].value == pytest.approx(1 - np.ceil(n / 4) / n)
    assert rows["val"].n == n
    assert [(p.source, p.split) for p in results if isinstance(p, Predictions)] == [("head", "val"), ("head", "test")]


def test_a_stage_without_a_head_gives_nothing(make_stage):
    assert Head().measure(make_stage()) == []


def test_bad_logits_are_refused(make_stage):
    stage = make_stage()
    n = len(stage.labels["val"])
    for logits, message in ((np.zeros((n, 2)), "expected"), (np.full((n, 3), np.nan), "NaN")):
        stage.logits = {"val": logits}
        with pytest.raises(ProbeError, match=message):
            Head().measure(stage)
