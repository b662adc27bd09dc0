"""Receptive fields as rows, and the border beyond which a stage sees nothing new."""

import math

import pytest
import torch
from torch import nn

from lwexplain.errors import CaptureError, ModelError
from lwexplain.models.staged import StagedModel
from lwexplain.probes.receptive_field import ReceptiveFieldProbe


def rows_of(model, stages, shape):
    found = ReceptiveFieldProbe(model, stages, shape).measure_all([])
    return {name: {row.metric: row for row in rows} for name, rows in found.items()}


def chain(depth):
    """Convolutions of 3 x 3: a receptive field of 2 d + 1 at depth d."""
    return nn.Sequential(*(nn.Conv2d(1, 1, 3, padding=1) for _ in range(depth)))


def test_the_border_is_the_first_stage_whose_input_sees_more_than_the_image():
    stages = [str(i) for i in range(8)]
    rows = rows_of(chain(8), stages, (1, 8, 8))
    assert [rows[name]["receptive_field"].value for name in stages] == [3, 5, 7, 9, 11, 13, 15, 17]
    assert [rows[name]["beyond_border"].value for name in stages] == [0, 0, 0, 0, 1, 1, 1, 1]
    assert rows["3"]["beyond_border"].note == ""
    assert rows["4"]["beyond_border"].note == "beyond the border: its input sees 9 x 9 pixels of an image of 8 x 8"
    assert all(row.split == "none" for of_stage in rows.values() for row in of_stage.values())


def test_both_sides_of_an_image_must_have_been_seen():
    rows = rows_of(chain(8), ["4", "7"], (1, 8, 14))
    assert [row["beyond_border"].value for row in rows.values()] == [0, 1]


def test_a_shortcut_keeps_a_stage_from_being_beyond_the_border_but_not_from_the_risk():
    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(1, 1, 9, padding=4)

        def forward(self, x):
            return x + self.conv(x)

    rows = rows_of(nn.Sequential(Block(), Block()), ["0", "1"], (1, 8, 8))["1"]
    assert rows["receptive_field"].value == 17
    assert rows["receptive_field_shortest"].value == 1
    assert rows["beyond_border"].value == 0
    assert rows["beyond_border"].note.startswith("at risk")


def test_a_stage_of_the_whole_image_has_the_side_of_the_image_and_a_note():
    model = nn.Sequential(nn.Conv2d(1, 2, (3, 5)), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(2, 2))
    rows = rows_of(model, ["0", "1", "3"], (1, 20, 30))
    assert rows["0"]["receptive_field"].value == 3
    assert rows["0"]["receptive_field"].note == "3 x 5 pixels"
    for name in ("1", "3"):
        assert rows[name]["receptive_field"].value == 20
        assert "the whole image" in rows[name]["receptive_field"].note
    assert math.isnan(rows["3"]["beyond_border"].value)
    assert "undefined" in rows["3"]["beyond_border"].note


def test_unknown_operations_are_noted():
    note = rows_of(nn.Sequential(nn.Conv2d(1, 4, 3), nn.PixelShuffle(2)), ["1"], (1, 9, 9))["1"]["receptive_field"].note
    assert "pixel_shuffle: not known" in note


def test_stages_of_a_staged_model_go_by_their_place_and_need_no_head():
    staged = StagedModel({"first": nn.Conv2d(1, 2, 3), "second": nn.Conv2d(2, 2, 3)}, (1, 9, 9), 2)
    staged.train()
    rows = rows_of(staged, ["first", "second"], (1, 9, 9))
    assert [row["receptive_field"].value for row in rows.values()] == [3, 5]
    assert staged.training
    assert staged.body[0].training


def test_calls_of_one_module_and_half_precision_are_followed():
    conv = nn.Conv2d(1, 1, 3).to(torch.bfloat16)
    model = nn.Sequential()
    model.add_module("conv", conv)
    model.add_module("again", conv)
    rows = rows_of(model, ["conv#1", "conv#2"], (1, 9, 9))
    assert [row["receptive_field"].value for row in rows.values()] == [3, 5]


def test_what_has_no_receptive_field_is_refused():
    with pytest.raises(ModelError, match="those of images"):
        rows_of(nn.Linear(3, 2), [""], (3,))
    with pytest.raises(CaptureError, match="no stage"):
        rows_of(chain(2), ["9"], (1, 8, 8))
