"""Nothing that other people's scripts rely on goes away; ``public_interface.py`` says what that is."""

import json

import pytest
from public_interface import FILE, interface, missing


@pytest.fixture(scope="module")
def now(tmp_path_factory):
    return json.loads(json.dumps(interface(tmp_path_factory.mktemp("interface"))))


def test_everything_of_the_list_is_there_as_it_was(now):
    assert missing(json.loads(FILE.read_text()), now) == []


def test_what_is_new_stands_in_the_list_as_well(now):
    assert missing(now, json.loads(FILE.read_text())) == [], "write it anew with: python tests/public_interface.py"


@pytest.mark.parametrize(
    ("before", "now", "said"),
    [
        ({"metrics": {"nc1": ["val"]}}, {"metrics": {}}, "/metrics/nc1: was ['val'], is None"),
        ({"keys": ["depth", "stage"]}, {"keys": ["stage"]}, "/keys: 'depth' is gone"),
        ({"seed": 0}, {"seed": 1}, "/seed: was 0, is 1"),
    ],
)
def test_what_is_missing_is_named(before, now, said):
    assert missing(before, now) == [said]
    assert missing(now, now) == []
