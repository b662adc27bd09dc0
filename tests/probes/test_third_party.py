"""Probes that other packages offer through the entry-point group."""

import textwrap

import pytest

from lwexplain.probes.base import PROBES
from lwexplain.probes.engine import built_in_probes, default_probes, run_probes


@pytest.fixture
def installed(tmp_path, monkeypatch):
    """A package on the path with one sound and one broken probe, as pip would leave it."""
    (tmp_path / "foreign_probes.py").write_text(
        textwrap.dedent(
            """
            class Width:
                name = "width"

                def measure(self, stage):
                    return {"feature_width": stage.features["val"].shape[1]}


            class Taken(Width):
                name = "ncm"


            class Nameless:
                pass
            """
        )
    )
    metadata = tmp_path / "foreign_probes-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: foreign-probes\nVersion: 1.0\n")
    (metadata / "entry_points.txt").write_text(
        "[lwexplain.probes]\nwidth = foreign_probes:Width\nlost = foreign_probes:Nowhere\n"
        "taken = foreign_probes:Taken\nnameless = foreign_probes:Nameless\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    with PROBES.temporary():
        yield


def test_an_installed_probe_runs_by_default_and_a_broken_one_is_reported_by_name(installed, make_stage):
    assert default_probes() == [*built_in_probes(), "lost", "nameless", "taken", "width"]
    run = run_probes([make_stage()], ["ncm", "lost", "nameless", "taken", "width"])
    assert [row["value"] for row in run.rows if row["metric"] == "feature_width"]
    assert any(row["metric"] == "ncm_accuracy" for row in run.rows)
    assert [(failure["probe"], failure["stage"]) for failure in run.failures] == [
        ("lost", None),
        ("nameless", None),
        ("taken", None),
    ]


def test_an_installed_probe_cannot_take_the_name_of_one_that_comes_later(installed, make_stage):
    run = run_probes([make_stage()], ["taken", "ncm"])
    assert {row["metric"] for row in run.rows} == {"ncm_accuracy"}
    assert [failure["probe"] for failure in run.failures] == ["taken"]


def test_without_foreign_packages_the_built_in_probes_run():
    assert default_probes()[: len(built_in_probes())] == built_in_probes()
