import pytest

from lwexplain import registry as registry_module
from lwexplain.errors import ConfigError, ModelError, UnknownNameError
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


@pytest.fixture
def configured():
    """A registry whose options stand in a configuration, with factories that fail in their own ways."""
    made = Registry("fruit", "lwexplain.views", options_key="fruit.options")

    @made.register("pear")
    def pear(size, *, width=None, ripe, slices=1):
        if slices == "wrong kind":
            raise ModelError("a pear has no such slices")
        return size / slices, width

    @made.register("plum")
    def plum(size, *, width=None, **more):
        return size, width, more

    made.register("builtin")(dict)
    made.register("module")(3)
    return made


def test_options_and_what_the_caller_sets_reach_the_factory(configured):
    assert configured.create("pear", 6, options={"ripe": True, "slices": 2}, width=5) == (3, 5)
    assert configured.create("plum", 6, options={"x": 1}, width=5) == (6, 5, {"x": 1})
    assert configured.create("builtin", options={"x": 1}) == {"x": 1}


def test_a_missing_option_is_named_with_its_key(configured):
    with pytest.raises(ConfigError, match=r"fruit 'pear' needs the option 'ripe'; set fruit\.options\.ripe"):
        configured.create("pear", 6)


@pytest.mark.parametrize("name", ["pear", "plum"])
def test_an_option_with_a_key_of_its_own_is_sent_there(configured, name):
    with pytest.raises(ConfigError, match=rf"fruit\.options of fruit '{name}' cannot hold 'width'.*set fruit\.width"):
        configured.create(name, 6, options={"width": 3}, width=None)


@pytest.mark.parametrize("name", ["pear", "plum"])
def test_an_option_that_names_an_argument_of_the_caller_is_unknown(configured, name):
    with pytest.raises(UnknownNameError, match=f"fruit '{name}' has no option 'size'"):
        configured.create(name, 6, options={"size": 3})
    with pytest.raises(UnknownNameError, match=f"fruit '{name}' has no option 'size'"):
        configured.create(name, 6, size=3)


@pytest.mark.parametrize(("slices", "reason"), [(0, "ZeroDivisionError"), ("a", "TypeError"), ([1], "TypeError")])
def test_whatever_a_factory_raises_is_told_with_its_options(configured, slices, reason):
    with pytest.raises(
        ConfigError, match=rf"fruit 'pear' cannot be made with fruit\.options=.*slices.*{reason}"
    ) as caught:
        configured.create("pear", 6, options={"ripe": True, "slices": slices})
    assert caught.value.__cause__ is not None


def test_a_factory_s_own_message_is_kept(configured):
    with pytest.raises(ModelError, match="a pear has no such slices"):
        configured.create("pear", 6, options={"ripe": True, "slices": "wrong kind"})


def test_options_that_are_no_mapping_and_entries_that_are_no_factory_are_refused(configured):
    with pytest.raises(ConfigError, match=r"fruit\.options must be a mapping of names to values, found 3"):
        configured.create("pear", 6, options=3)
    with pytest.raises(ConfigError, match="fruit 'module' cannot be made: TypeError"):
        configured.create("module")


def test_a_name_cannot_be_taken_twice(registry):
    with pytest.raises(ValueError, match="registered twice"):
        registry.register("apple")(lambda: None)


def test_a_temporary_registry_is_given_back_as_it_was(registry):
    def use_and_fail():
        with registry.temporary() as same:
            assert same is registry
            registry.register("pear")(lambda: "a pear")
            assert registry.create("pear") == "a pear"
            assert registry.names() == ["apple", "pear"]
            raise RuntimeError("whatever happens")

    with pytest.raises(RuntimeError, match="whatever happens"):
        use_and_fail()
    assert registry.names() == ["apple"]
    assert registry.create("apple", 1) == (1, "red")


def test_a_temporary_registry_asks_installed_packages_anew_and_forgets_them(monkeypatch, registry):
    class Point:
        name = "cherry"
        value = "fruits:Cherry"

        def load(self):
            return lambda: "a cherry"

    registry.group = "fruits"
    assert registry.names() == ["apple"]
    monkeypatch.setattr(registry_module, "entry_points", lambda group: [Point()])
    with registry.temporary():
        assert registry.third_party() == ["cherry"]
        assert registry.origin("cherry")[0] == "fruits:Cherry"
    assert registry.names() == ["apple"]
    assert registry.third_party() == []
    assert registry.origin("cherry") is None


def test_summary_is_the_first_line_of_the_docstring(registry):
    assert registry.summary("apple") == "A round fruit."
    assert list(registry) == ["apple"]
    assert "apple" in registry


def test_a_built_in_name_cannot_be_taken_over_by_an_entry_point(monkeypatch, registry):
    class Point:
        name = "apple"
        value = "fruits:Apple"

        def load(self):
            return lambda: "poisoned"

    monkeypatch.setattr(registry_module, "entry_points", lambda group: [Point()])
    registry.group = "fruits"
    assert registry.create("apple", 1) == (1, "red")
    assert registry.third_party() == []


def test_a_broken_entry_point_is_reported_only_when_it_is_used(monkeypatch):
    class Point:
        name = "broken"
        value = "fruits:Broken"

        def load(self):
            raise ImportError("no module named cherry")

    monkeypatch.setattr(registry_module, "entry_points", lambda group: [Point()])
    made = Registry("fruit", "lwexplain.views", group="fruits")
    assert made.names() == ["broken"]
    with pytest.raises(UnknownNameError, match="no module named cherry"):
        made.create("broken")
