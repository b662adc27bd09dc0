"""Every code block of the README and of the documentation runs, page by page, in a folder of its own.

What runs is what stands there, with small configurations in the place of those in ``configs``: a narrow network and few
epochs. The README is run first, and the pages that speak of earlier runs go on with its runs.
"""

import contextlib
import io
import shlex
import shutil
import subprocess
import sys
from contextlib import ExitStack

import pytest
import yaml
from page_blocks import PAGES, ROOT, RUN_LANGUAGES, begins_with_runs, blocks_of, name_of
from PIL import Image
from sklearn.datasets import load_digits

from lwexplain.cli import main
from lwexplain.data.dataset import DATASETS
from lwexplain.models.build import MODELS
from lwexplain.models.heads.base import HEADS
from lwexplain.training.losses.base import LOSSES
from lwexplain.training.strategies.base import STRATEGIES

README = ROOT / "README.md"
OTHERS = [page for page in PAGES if page != README]
SMALL_MODEL = {"name": "cnn", "width": 8, "units": "group"}  # three stages


def prepare(folder):
    """Small configurations and a few images, as the pages suppose them to be there."""
    (folder / "configs").mkdir()
    for path in sorted((ROOT / "configs").glob("*.yaml")):
        config = yaml.safe_load(path.read_text())
        config["model"] = SMALL_MODEL
        config["data"] |= {"val_fraction": 0.25, "batch_size": 16}
        if config["data"]["name"] == "digits":
            config["data"]["train_size"] = 500
        config["training"] |= {"epochs": 3, "precision": "fp32"}
        if config["data"]["name"] == "folder":
            config["data"]["image_size"] = 8
        (folder / "configs" / path.name).write_text(yaml.safe_dump(config))
    digits = load_digits()
    for name, digit in (("cat", 0), ("dog", 1), ("horse", 2)):
        (folder / "my_images" / name).mkdir(parents=True)
        for number, image in enumerate(digits.images[digits.target == digit][:60]):
            Image.fromarray((image * 15).astype("uint8")).save(folder / "my_images" / name / f"{number}.png")


def run_page(page, folder):
    """Run the blocks of a page in ``folder``, one after another; Python blocks share their names."""
    names = {"__name__": "page"}
    with ExitStack() as stack:
        for registry in (DATASETS, MODELS, HEADS, LOSSES, STRATEGIES):
            stack.enter_context(registry.temporary())
        stack.enter_context(contextlib.chdir(folder))
        for block in blocks_of(page.read_text(encoding="utf-8")):
            if block.reason or block.language not in RUN_LANGUAGES:
                continue
            if block.empty_runs and (folder / "runs").exists():
                shutil.rmtree(folder / "runs")
            where = f"{name_of(page)}, line {block.line}"
            try:
                if block.language == "python":
                    exec(compile(block.code, where, "exec"), names)
                else:
                    for command in commands_of(block.code):
                        run_command(command)
            except Exception as error:
                error.add_note(f"in the block at {where}")
                raise


def commands_of(code):
    """The commands of a shell block, without comments, those that go on over several lines as one."""
    whole = code.replace("\\\n", " ")
    return [command for line in whole.splitlines() if (command := shlex.join(shlex.split(line, comments=True)))]


def run_command(command):
    """Run a command; one of lwexplain in this process, which has torch loaded already."""
    words = shlex.split(command)
    if words[0] != "lwexplain":
        subprocess.run(["bash", "-euc", command], check=True, timeout=60)
        return
    out, code = io.StringIO(), 0
    with (
        pytest.MonkeyPatch.context() as patch,
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(out),
    ):
        patch.setattr(sys, "argv", words)
        try:
            main()
        except SystemExit as exit:
            code = exit.code
    assert code == 0, f"{command}\n{out.getvalue()}"


@pytest.fixture(scope="session")
def readme(tmp_path_factory):
    """The folder in which the README was run."""
    folder = tmp_path_factory.mktemp("readme")
    prepare(folder)
    run_page(README, folder)
    return folder


def test_the_readme_runs_and_leaves_what_it_says(readme):
    for name in ("shorter.pt2", "two_stages.pt2", "runs/digits_bp/report.html", "runs/digits_greedy/report.html"):
        assert (readme / name).stat().st_size > 1000, name


@pytest.mark.parametrize("page", OTHERS, ids=name_of)
def test_every_block_of_the_page_runs(page, readme, tmp_path):
    prepare(tmp_path)
    if begins_with_runs(page.read_text(encoding="utf-8")):
        shutil.copytree(readme / "runs", tmp_path / "runs")
        shutil.copytree(readme / "runs", tmp_path / "runs" / "demo")
    run_page(page, tmp_path)


def test_few_blocks_are_not_run_and_each_says_why():
    found = [block for page in PAGES for block in blocks_of(page.read_text(encoding="utf-8"))]
    left_out = [block for block in found if block.reason]
    run = [block for block in found if not block.reason and block.language in RUN_LANGUAGES]
    assert len(run) >= 3 * len(left_out)
    assert all(block.language in RUN_LANGUAGES and len(block.reason) > 10 for block in left_out)
    assert {block.language for block in found} <= {*RUN_LANGUAGES, "text", "toml"}
