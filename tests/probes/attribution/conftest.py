"""The network with planted evidence, made once."""

import pytest
from planted_evidence import Planted, make_planted


@pytest.fixture(scope="session")
def planted() -> Planted:
    return make_planted()
