import pytest

from lwexplain.views.exported import milliseconds


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (3.6512e-3, "3.7 ms"),
        (8.27e-3, "8.3 ms"),
        (1.2345, "1200 ms"),
        (45.6e-3, "46 ms"),
        (1.04e-4, "0.1 ms"),
        (9.96e-3, "10 ms"),
    ],
)
def test_latencies_are_shown_to_two_digits(seconds, text):
    assert milliseconds(seconds) == text
