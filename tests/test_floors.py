"""The package is a house: a module imports from the floors below its own, and no import leads back to where it began.

Every import counts, also those inside functions and those for type checkers alone.
"""

import ast
import subprocess
import sys
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "lwexplain"

FLOORS = [
    # words and numbers
    ["errors", "version", "text", "signals", "intervals", "class_balance", "costs", "table"],
    ["metrics", "text_table", "program"],
    ["terminal"],
    ["progress"],
    # the run directory; where and with how many we compute
    ["registry", "memory", "devices", "processes"],
    ["arguments"],
    ["run"],
    ["results"],
    ["config"],
    ["stored_config"],
    # images and networks
    ["data", "models"],
    # side by side: none of these imports another
    ["training", "capture", "probes", "advice"],
    # networks that somebody else trained, as runs
    ["adoption"],
    # what joins them
    ["analysis", "exporting", "monitoring"],
    # what people see and call
    ["views"],
    ["api", "integrations"],
    ["study", "demo"],
    ["reproduce"],
    ["explorer"],
    ["cli"],
    ["__main__"],
]
WITHOUT_TORCH = ["advice", "views", "explorer", "results", "run", "table", "config"]


def modules():
    """Dotted names below the package, without its own name; the file of each."""
    found = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    found.pop("")  # the public names, which load on first use
    return found


def imports(path, known):
    """The modules of the package that a file imports, anywhere in it."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} imports by a relative name"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        else:
            continue
        for name in names:
            if name == "lwexplain" or name.startswith("lwexplain."):
                found.add(_module_of(name.removeprefix("lwexplain").removeprefix("."), known))
    return found


def _module_of(name, known):
    """The module that a dotted name of a module or of something in it stands for; "" is the package itself."""
    while name and name not in known:
        name = name.rpartition(".")[0]
    return name


@pytest.fixture(scope="module")
def house():
    known = modules()
    return {name: imports(path, known) for name, path in known.items()}


def top(name):
    return name.partition(".")[0]


FLOOR_OF = {name: number for number, floor in enumerate(FLOORS) for name in floor}


def test_every_module_has_a_floor(house):
    assert {top(name) for name in house} == set(FLOOR_OF)


def test_imports_lead_down(house):
    up = [
        f"{name} imports {other}"
        for name, others in house.items()
        for other in others
        if other == "" or (top(other) != top(name) and FLOOR_OF[top(other)] >= FLOOR_OF[top(name)])
    ]
    assert up == []


def test_no_import_leads_back_to_where_it_began(house):
    try:
        list(TopologicalSorter(house).static_order())
    except CycleError as error:
        pytest.fail(" -> ".join(error.args[1]))


def test_a_circle_and_an_import_upwards_would_be_seen(tmp_path):
    (tmp_path / "low.py").write_text("def late():\n    from lwexplain.high import thing\n")
    assert imports(tmp_path / "low.py", {"low": None, "high": None}) == {"high"}
    with pytest.raises(CycleError):
        list(TopologicalSorter({"low": {"high"}, "high": {"low"}}).static_order())


def test_what_people_look_at_loads_no_torch():
    """In a fresh process, one module after the other: the first one that brings torch along is named."""
    names = [f"lwexplain.{name}" for name in modules() if top(name) in WITHOUT_TORCH]
    code = (
        f"import importlib, sys\nfor name in {names}:\n    importlib.import_module(name)\n"
        "    if 'torch' in sys.modules: sys.exit(f'{name} loads torch')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr.splitlines()[-1:]
