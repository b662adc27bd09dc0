import pytest

from lwexplain import registry as registry_module
from lwexplain.errors import UnknownNameError
from lwexplain.registry import Registry


@pytest.fixture
def registry():
    made = Registry("fruit", "lwexplain.views")

    @made.register("apple")
    def apple(size, *, colour="red"):
        """A round fruit.

        More words."""
        return size, colour

    return made


def test_create_passes_arguments_and_options(registry):
    assert registry.create("apple", 3, colour="green") == (3, "green")


def test_an_unknown_name_suggests_the_nearest(registry):
    with pytest.raises(UnknownNameError, match="unknown fruit 'aple'; did you mean 'apple'"):
        registry.get("aple")


def test_an_unknown_option_is_named_with_the_known_ones(registry):
    with pytest.raises(UnknownNameError, match="no option 'color'; did you mean 'colour'"):
        registry.create("apple", 3, color="green")


def test_a_name_cannot_be_taken_twice(registry):
    with pytest.raises(ValueError, match="registered twice"):
        registry.register("apple")(lambda: None)


def test_summary_is_the_first_line_of_the_docstring(registry):
    assert registry.summary("apple") == "A round fruit."
    assert list(registry) == ["apple"]
    assert "apple" in registry


def test_a_built_in_name_cannot_be_taken_over_by_an_entry_point(monkeypatch, registry):
    class Point:
        name = "apple"

        def load(self):
            return lambda: "poisoned"

    monkeypatch.setattr(registry_module, "entry_points", lambda group: [Point()])
    registry.group = "fruits"
    assert registry.create("apple", 1) == (1, "red")
    assert registry.third_party() == []


def test_a_broken_entry_point_is_reported_only_when_it_is_used(monkeypatch):
    class Point:
        name = "broken"

        def load(self):
            raise ImportError("no module named cherry")

    monkeypatch.setattr(registry_module, "entry_points", lambda group: [Point()])
    made = Registry("fruit", "lwexplain.views", group="fruits")
    assert made.names() == ["broken"]
    with pytest.raises(UnknownNameError, match="no module named cherry"):
        made.create("broken")
