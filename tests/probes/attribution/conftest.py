"""The network with planted evidence, made once."""

import pytest
from planted_evidence import make_planted


@pytest.fixture(scope="session")
def planted():
    return make_planted()
