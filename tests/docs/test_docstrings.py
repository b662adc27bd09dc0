"""What every public name says of itself, and the examples in it, which run as they stand."""

import ast
import contextlib
import doctest
import inspect
import re
import shutil

import pytest
from page_blocks import ROOT

import lwexplain as lw

CONFIG = {
    "data": {"name": "digits", "train_size": 500, "val_fraction": 0.3, "batch_size": 16},
    "model": {"name": "cnn", "width": 8, "units": "group"},  # three stages
    "training": {"strategy": "greedy", "epochs": 4, "optimizer": {"lr": 0.05}},
}
NAMES = [name for name in lw.__all__ if name != "__version__"]
FUNCTIONS = [name for name in NAMES if inspect.isfunction(getattr(lw, name))]


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A folder of a layer-wise run and one by back-propagation, analyzed: the runs of which the examples speak."""
    folder = tmp_path_factory.mktemp("examples")
    greedy = lw.train(CONFIG, run_dir=folder / "runs" / "digits", quiet=True)
    bp = lw.train(CONFIG, {"training.strategy": "bp"}, run_dir=folder / "runs" / "digits_bp", quiet=True)
    for run in (greedy, bp):
        lw.analyze(run, probes=["head", "linear"], quiet=True)
    return folder


@pytest.mark.parametrize("name", NAMES)
def test_the_example_of_the_name_gives_what_it_shows(name, runs, tmp_path):
    shutil.copytree(runs / "runs", tmp_path / "runs")
    (found,) = doctest.DocTestFinder(recurse=False).find(getattr(lw, name), name, globs={"lw": lw})
    assert found.examples
    said = []
    with contextlib.chdir(tmp_path):
        result = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS).run(found, out=said.append)
    assert result.failed == 0, "".join(said)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_every_argument_of_the_function_is_explained_and_no_other(name):
    function = getattr(lw, name)
    sections = sections_of(function)
    assert list(sections["Args"]) == list(inspect.signature(function).parameters)
    assert all(sections["Args"].values())


@pytest.mark.parametrize("name", FUNCTIONS)
def test_the_function_says_what_it_returns_and_raises(name):
    sections = sections_of(getattr(lw, name))
    assert "Returns" in sections
    errors = {item.name for item in ast.parse((ROOT / "lwexplain/errors.py").read_text()).body if hasattr(item, "name")}
    assert sections["Raises"]
    assert set(sections["Raises"]) <= errors


def sections_of(function):
    """The sections of a docstring, each with its entries by name."""
    found, section = {}, None
    for line in inspect.getdoc(function).splitlines():
        heading = re.fullmatch(r"(Args|Returns|Raises|Examples):", line)
        entry = re.fullmatch(r"    (\w+): (.+)", line)
        if heading:
            section = found.setdefault(heading[1], {})
        elif entry and section is not None:
            section[entry[1]] = entry[2]
    return found
