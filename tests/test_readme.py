"""What the README promises is what the package does."""

import importlib.util
import re
from pathlib import Path

import numpy as np

from lwexplain.cli import app
from lwexplain.probes.base import StageData
from lwexplain.probes.engine import run_probes

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()


def test_the_probe_of_the_readme_works_and_is_at_most_15_lines():
    block = next(block for block in re.findall(r"```python\n(.*?)```", README, re.DOTALL) if "class Sparsity" in block)
    code = block.split("lw.analyze")[0]
    assert len([line for line in code.splitlines() if line.strip()]) <= 15
    names = {}
    exec(code, names)
    features = {"val": np.array([[0.0, 1.0], [2.0, 0.0]], np.float32)}
    stage = StageData("s", 1, features, {"val": np.array([0, 1])}, ["a", "b"])
    (row,) = run_probes([stage], [names["Sparsity"]()]).rows
    assert (row["metric"], row["value"], row["split"]) == ("zero_share", 0.5, "val")


def test_every_command_of_the_readme_exists():
    known = {command.name or command.callback.__name__ for command in app.registered_commands}
    blocks = "\n".join(re.findall(r"```sh\n(.*?)```", README, re.DOTALL))
    used = set(re.findall(r"^lwexplain (\w+)", blocks, re.MULTILINE))
    assert used
    assert used <= known


def test_every_file_and_make_target_of_the_readme_exists():
    for name in re.findall(r"(?:configs|apps)/\w+\.(?:yaml|py)", README):
        assert (ROOT / name).exists(), name
    makefile = (ROOT / "Makefile").read_text()
    for target in re.findall(r"^make (\w+)", README, re.MULTILINE):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target


def test_the_tables_of_the_readme_are_those_of_the_result_files():
    path = ROOT / "tests" / "benchmarks" / "readme_tables.py"
    script = importlib.util.spec_from_file_location("readme_tables", path)
    module = importlib.util.module_from_spec(script)
    script.loader.exec_module(module)
    assert re.findall(r"<!-- table: (\w+) -->", README) == list(module.TABLES)
    for path in module.FILES:
        text = path.read_text(encoding="utf-8")
        assert module.with_tables(text) == text, path.name
