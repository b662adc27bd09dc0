"""Analysis tables with a known truth."""

import pytest
from made_tables import table_of


@pytest.fixture
def make_table():
    return table_of
