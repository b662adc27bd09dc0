"""A network from ``package.module:factory``."""

import sys

import pytest
from torch import nn

from lwexplain.errors import ModelError, UserCodeError
from lwexplain.models.factory import build_from

CODE = """
from torch import nn

class Kinds:
    @staticmethod
    def small(width=4):
        return nn.Sequential(nn.Flatten(), nn.Linear(width, 2))

def network(width, classes=2):
    return nn.Sequential(nn.Flatten(), nn.Linear(width, classes))

def of_anything(**options):
    return nn.Linear(options["width"], 2)

def number():
    return 3

def raising():
    raise RuntimeError("no such weights")

def raising_type_error():
    return len(3)

built = nn.Linear(2, 2)
constant = 5
"""


@pytest.fixture
def own_package(tmp_path, monkeypatch):
    """A folder on the import path with modules of somebody's own."""
    (tmp_path / "own_nets").mkdir()
    (tmp_path / "own_nets" / "__init__.py").write_text("")
    (tmp_path / "own_nets" / "small.py").write_text(CODE)
    (tmp_path / "own_nets" / "broken.py").write_text("1 / 0\n")
    (tmp_path / "own_nets" / "needy.py").write_text("import no_such_package_at_all\n")
    (tmp_path / "own_nets" / "unfinished.py").write_text("def network(:\n")
    monkeypatch.syspath_prepend(tmp_path)
    yield "own_nets"
    for name in [name for name in sys.modules if name.partition(".")[0] == "own_nets"]:
        del sys.modules[name]


def test_the_factory_is_called_with_the_arguments_by_keyword(own_package):
    model = build_from("own_nets.small:network", {"width": 6, "classes": 3})
    assert (model[1].in_features, model[1].out_features) == (6, 3)
    assert build_from("own_nets.small:of_anything", {"width": 7}).in_features == 7


def test_a_class_or_a_function_inside_one_is_a_factory_as_well(own_package):
    assert build_from("own_nets.small:Kinds.small", {"width": 5})[1].in_features == 5
    assert isinstance(build_from("torch.nn:Identity"), nn.Identity)


@pytest.mark.parametrize("spec", ["own_nets.small", "", ":network", "own_nets.small:", "own nets:network", "a:b:c", 3])
def test_another_form_is_refused_with_the_form_that_is_expected(spec):
    with pytest.raises(ModelError, match=r"expected package\.module:factory"):
        build_from(spec)


@pytest.mark.parametrize(
    ("spec", "arguments", "words"),
    [
        ("own_nets.smal:network", {}, r"no module 'own_nets\.smal'.*spelling"),
        ("no_such_package_of_mine.x:network", {}, "no module 'no_such_package_of_mine'"),
        ("own_nets.needy:network", {}, "needs 'no_such_package_at_all', which is not installed"),
        ("own_nets.small:netwrok", {}, "has no 'netwrok'; did you mean 'network'"),
        ("own_nets.small:Kinds.smal", {}, "did you mean 'small'"),
        ("own_nets.small:constant", {}, "is 5; expected a function or a class"),
        ("own_nets.small:built", {}, "is a network already"),
        ("own_nets.small:number", {}, "returned 3; it must return the network"),
        ("own_nets.small:network", {}, "missing a required argument: 'width'; it takes width, classes=2"),
        ("own_nets.small:network", {"width": 2, "depth": 3}, "unexpected keyword argument 'depth'"),
        ("own_nets.small:network", [1], "give them as a mapping"),
        ("own_nets.small:network", {1: 2}, "names of arguments are text"),
    ],
)
def test_what_is_wrong_is_said_in_one_or_two_lines(own_package, spec, arguments, words):
    with pytest.raises(ModelError, match=words) as caught:
        build_from(spec, arguments)
    assert len(str(caught.value)) < 400


@pytest.mark.parametrize(
    ("spec", "words", "cause"),
    [
        ("own_nets.broken:network", "while it was imported, raised ZeroDivisionError", ZeroDivisionError),
        ("own_nets.unfinished:network", "while it was imported, raised SyntaxError", SyntaxError),
        ("own_nets.small:raising", "factory own_nets.small:raising raised RuntimeError: no such weights", RuntimeError),
        ("own_nets.small:raising_type_error", "raised TypeError", TypeError),
    ],
)
def test_what_the_code_itself_raises_is_passed_on_as_the_cause(own_package, spec, words, cause):
    with pytest.raises(UserCodeError, match=words) as caught:
        build_from(spec)
    assert isinstance(caught.value.__cause__, cause)
