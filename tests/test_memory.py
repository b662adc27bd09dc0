import pytest

from lwexplain import memory
from lwexplain.errors import ConfigError
from lwexplain.memory import DEFAULT_WORKING_BYTES, parse_size, resident_bytes, working_bytes


@pytest.mark.parametrize(
    ("text", "size"), [("2GB", 2 * 10**9), ("800 MiB", 800 * 2**20), ("1.5g", 1_500_000_000), ("4096", 4096)]
)
def test_sizes_are_read_with_decimal_and_binary_units(text, size):
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "2 bananas", "-1GB", "0", "GB", "I"])
def test_what_is_no_size_is_refused(text):
    with pytest.raises(ConfigError, match="write it as 2GB"):
        parse_size(text)


def test_a_limit_leaves_room_for_what_the_process_holds(monkeypatch):
    monkeypatch.setattr(memory, "resident_bytes", lambda: 400 * 10**6)
    assert working_bytes(None) == DEFAULT_WORKING_BYTES
    assert working_bytes(700 * 10**6) == 200 * 10**6
    assert working_bytes(10**12) == DEFAULT_WORKING_BYTES
    with pytest.raises(ConfigError, match=r"450 MB is too small.*take 400 MB already; give at least 501 MB"):
        working_bytes(450 * 10**6)


def test_the_process_holds_some_memory():
    assert resident_bytes() > 10**6
