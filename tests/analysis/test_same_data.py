"""A run is analyzed and exported with the images it was trained on, or not at all."""

import json
import os
import shutil

import numpy as np
import pytest
from PIL import Image

import lwexplain as lw
from lwexplain.errors import DataError, RunError
from lwexplain.exporting.export import open_source
from lwexplain.run import Run

RECIPE = {"model": {"name": "cnn", "width": 4, "options": {"depth": 2}}, "training": {"epochs": 1}}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    top = tmp_path_factory.mktemp("made")
    for row, name in enumerate(("cat", "dog")):
        (top / "images" / name).mkdir(parents=True)
        for number in range(12):
            pixels = np.random.default_rng(100 * row + number).integers(0, 256, (8, 8), dtype=np.uint8)
            Image.fromarray(pixels).save(top / "images" / name / f"{number}.bmp")
    before = os.getcwd()
    os.chdir(top)
    try:
        lw.train(RECIPE | {"data": {"name": "folder", "root": "images"}}, run_dir="run", quiet=True)
    finally:
        os.chdir(before)
    return top


@pytest.fixture
def run(made, tmp_path):
    """A copy of the run; its images are the common ones, which a test puts back as they were."""
    shutil.copytree(made / "run", tmp_path / "run")
    contents = {path: path.read_bytes() for path in made.rglob("*.bmp")}
    yield tmp_path / "run"
    for path, content in contents.items():
        path.write_bytes(content)


def analyze(run):
    return lw.analyze(run, ["knn"], quiet=True)


def swap(one, other):
    first, second = one.read_bytes(), other.read_bytes()
    one.write_bytes(second)
    other.write_bytes(first)


def test_images_swapped_with_others_of_equal_size_are_noticed(run, made):
    for number in range(12):
        swap(made / "images" / "cat" / f"{number}.bmp", made / "images" / "dog" / f"{number}.bmp")
    with pytest.raises(RunError, match=r"the images of 'folder' \(train, val, test\) differ from those .*run was"):
        analyze(run)
    with pytest.raises(RunError, match="the images of 'folder'"):
        open_source(Run.open(run), "cpu")


def test_runs_are_not_compared_on_images_that_changed_since_training(run, made):
    path = made / "images" / "cat" / "0.bmp"
    path.write_bytes(path.read_bytes()[:-1] + b"\x07")
    with pytest.raises(RunError, match=r"the images of 'folder' .* differ from those .*run was trained on"):
        lw.similarity(run, run)


def test_the_other_run_of_a_comparison_is_checked_as_well(run, made, tmp_path):
    manifest = json.loads((run / "run.json").read_text())
    shutil.copytree(run, tmp_path / "other")
    manifest["data"]["fingerprint"] = "contents:" + "0" * 64
    (tmp_path / "other" / "run.json").write_text(json.dumps(manifest))
    with pytest.raises(RunError, match=r"differ from those .*other was trained on"):
        lw.similarity(run, tmp_path / "other")


def test_the_error_names_the_split_that_changed(run, made):
    """Of 24 images one changed, which is in one split."""
    path = made / "images" / "cat" / "0.bmp"
    path.write_bytes(path.read_bytes()[:-1] + b"\x07")
    with pytest.raises(RunError, match=r"the images of 'folder' \((train|val|test)\) differ"):
        analyze(run)


def test_images_that_were_touched_and_are_the_same_pass(run, made):
    for path in (made / "images").rglob("*.bmp"):
        path.write_bytes(path.read_bytes())
        os.utime(path)
    assert len(analyze(run)) > 0


def test_a_run_that_counted_sizes_alone_is_not_taken_for_the_same(run):
    manifest = json.loads((run / "run.json").read_text())
    manifest["data"]["fingerprint"] = "0" * 64
    (run / "run.json").write_text(json.dumps(manifest))
    with pytest.raises(RunError, match="by names and sizes alone, as earlier versions did"):
        analyze(run)


def test_a_relative_root_is_found_from_any_folder(run, tmp_path, monkeypatch):
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert len(analyze(run)) > 0


def test_a_relative_root_of_an_older_run_names_the_mend(run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    text = (run / "config.yaml").read_text()
    (run / "config.yaml").write_text(
        "\n".join("  root: images" if line.startswith("  root:") else line for line in text.splitlines())
    )
    with pytest.raises(DataError, match=rf"no folder images in {tmp_path}, .* in its config\.yaml"):
        analyze(run)


def test_what_was_noted_of_the_images_is_told_kept_and_shown(tmp_path, capsys):
    from lwexplain.views.contents import notes

    for name, place in (("disc", slice(4, 8)), ("bar", slice(0, 2))):
        (tmp_path / "images" / name).mkdir(parents=True)
        for number in range(12):
            pixels = np.random.default_rng(number).integers(0, 60, (8, 8, 4), dtype=np.uint8)
            pixels[..., 3] = 0
            pixels[place, place, 3] = 255
            Image.fromarray(pixels).save(tmp_path / "images" / name / f"{number}.png")
    config = RECIPE | {"data": {"name": "folder", "root": str(tmp_path / "images")}}
    trained = lw.train(config, run_dir=tmp_path / "run")
    told = "24 of 24 images are transparent in places"
    assert f"note: {told}" in capsys.readouterr().err
    assert trained.manifest["data"]["notes"][0].startswith(told)
    assert notes(analyze(trained))[0].startswith(told)


def test_data_at_a_name_that_is_not_utf8_is_taken_through_a_link(tmp_path, made):
    root = tmp_path / os.fsdecode(b"caf\xe9")
    shutil.copytree(made / "images", root)
    os.symlink(root, tmp_path / "coffee")
    with pytest.raises(DataError, match=r"caf\\xe9 has a name that is no printable UTF-8.*link to it"):
        lw.train(RECIPE | {"data": {"name": "folder", "root": root}}, run_dir=tmp_path / "run", quiet=True)
    config = RECIPE | {"data": {"name": "folder", "root": tmp_path / "coffee"}}
    assert len(analyze(lw.train(config, run_dir=tmp_path / "run", quiet=True))) > 0
