"""A run directory of a stranger does no harm: every file changed in every way, commands end well or in one sentence."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from hostile_runs import CANARY, make_good_run

from lwexplain import api
from lwexplain.errors import LwexplainError
from lwexplain.run import Run

CHANGES = 320
WORKERS = 2


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    path = tmp_path_factory.mktemp("good") / "good"
    make_good_run(path)
    return path


@pytest.mark.slow
def test_every_file_changed_in_every_way_ends_well_or_in_one_sentence(good):
    """No traceback, at most 10 s and 1 GB each, nothing outside the run opened, shown, changed, fetched or started."""
    script, share = Path(__file__).with_name("hostile_runs.py"), CHANGES // WORKERS
    workers = [
        subprocess.Popen(
            [sys.executable, str(script), str(good.parent), str(first), str(first + share)],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )
        for first in range(0, CHANGES, share)
    ]  # fmt: skip
    for worker in workers:
        out, err = worker.communicate()
        assert out.startswith("0 wrong"), err[-4000:]


@pytest.mark.parametrize("name", ["/x/table", "../../../outside/table", "../table", "a/b", "table\0", ".hidden"])
@pytest.mark.parametrize("key", ["layouts", "extra", "attributions"])
def test_a_name_in_part_json_never_becomes_a_path(good, tmp_path, key, name):
    """The part is measured anew, and what the name leads to stays as it was."""
    run, outside = copy_of(good, tmp_path)
    header = run / "analysis" / "parts" / "linear" / "part.json"
    content = json.loads(header.read_text())
    named = name.replace("/x", str(outside))
    about = {"stages": ["a"], "targets": [[0]], "valid": [True], "notes": [""]}
    content[key] = {named: about} if key == "attributions" else [named]
    header.write_text(json.dumps(content))
    (run / "analysis" / "analysis.json").unlink()
    api.analyze(run, ["linear"], quiet=True)
    assert {path.name: path.read_text() for path in outside.iterdir()} == OUTSIDE


@pytest.mark.parametrize(
    "link",
    [".lock", "events.jsonl", "analysis/embeddings", "analysis/attributions", "analysis/parts", "analysis/features",
     "analysis/metrics.parquet", "analysis/analysis.json", "analysis", "checkpoints", "run.json", "config.yaml"],
)  # fmt: skip
def test_a_link_out_of_the_run_is_neither_read_nor_written_nor_emptied(good, tmp_path, link):
    run, outside = copy_of(good, tmp_path)
    place = run / link
    target = outside if place.is_dir() else outside / "table.npy"
    if place.is_dir():
        os.rename(place, tmp_path / "put away")
    else:
        place.unlink(missing_ok=True)
    place.symlink_to(target)
    said = []
    for use in (lambda: api.analyze(run, ["knn"], quiet=True), lambda: api.recommend(run), lambda: api.report(run)):
        try:
            use()
        except LwexplainError as error:
            said.append(str(error))
    assert CANARY not in "".join(said)
    assert {path.name: path.read_text() for path in outside.iterdir()} == OUTSIDE


def test_what_an_environment_links_to_is_not_shown_in_the_report(good, tmp_path):
    run, outside = copy_of(good, tmp_path)
    (run / "environment.json").unlink()
    (run / "environment.json").symlink_to(outside / "secret.json")
    text = api.report(run).read_text()
    assert CANARY not in text
    assert "environment.json is a symbolic link" in text


@pytest.mark.parametrize(
    "content", ["token: {secret", "&a [*a]", "- secret\n- x", "secret", "x: 'secret", "{x: !!secret y}"]
)
def test_an_error_of_a_configuration_never_quotes_its_lines(good, tmp_path, content):
    run, _ = copy_of(good, tmp_path)
    (run / "config.yaml").write_text(content.replace("secret", CANARY * 9))
    for use in (lambda: Run.open(run).config(), lambda: api.train(run / "config.yaml", run_dir=run, resume=True)):
        with pytest.raises(LwexplainError) as caught:
            use()
        assert CANARY * 2 not in str(caught.value)
        assert "\n" not in str(caught.value)


def test_temporary_names_of_earlier_versions_laid_as_links_are_not_written_through(good, tmp_path):
    run, outside = copy_of(good, tmp_path)
    for folder in (run, run / "analysis", run / "checkpoints"):
        for path in list(folder.iterdir()):
            if path.is_file():
                (folder / f".{path.name}.{os.getpid()}.tmp").symlink_to(outside / "table.npy")
    (run / "analysis" / "analysis.json").unlink()
    api.analyze(run, ["head"], quiet=True)
    assert {path.name: path.read_text() for path in outside.iterdir()} == OUTSIDE


OUTSIDE = {"secret.json": json.dumps({"token": CANARY}), "table.npy": "years of work", "table.parquet": "more of it"}


def copy_of(good, tmp_path):
    """A copy of the good run, and a folder beside it with files that belong to somebody."""
    outside = tmp_path / "outside"
    outside.mkdir()
    for name, content in OUTSIDE.items():
        (outside / name).write_text(content)
    shutil.copytree(good / "run", tmp_path / "run")
    return tmp_path / "run", outside
