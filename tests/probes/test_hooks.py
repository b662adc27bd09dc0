"""What a probe leaves out is as ProbeDefaults says, and what it declares is checked before anything runs."""

import pytest

from lwexplain.errors import LwexplainError, ProbeError, UserCodeError
from lwexplain.metrics import Metric
from lwexplain.probes.base import ProbeDefaults
from lwexplain.probes.engine import run_probes
from lwexplain.probes.hooks import ProbeHooks, name_of


class Bare:
    """Any object with a name and measure: nothing else is asked of a probe."""

    name = "bare"

    def measure(self, stage):
        return {"bare_metric": 1.0}


class Full(Bare):
    name = "full"
    metrics = (Metric("full_metric", "all of it", "higher", "geometry"),)
    order = 3
    needs_quiet = True
    collective = True

    def __init__(self):
        self.settings = {"size": 2}
        self.heard = []

    def prepare(self):
        self.heard.append("prepare")

    def begin(self, stages):
        self.heard.append(stages)

    def is_busy(self):
        return True

    def measure_all(self, stages):
        return {}


def test_an_object_that_declares_nothing_has_the_defaults():
    hooks = ProbeHooks(Bare())
    assert (hooks.metrics, hooks.order, hooks.settings) == ({}, ProbeDefaults.order, None)
    assert (hooks.needs_quiet, hooks.collective, hooks.measures_all, hooks.is_busy()) == (False, False, False, False)
    assert hooks.prepare() is None
    assert hooks.begin([]) is None


def test_what_an_object_declares_and_defines_is_used_whatever_its_class():
    probe = Full()
    hooks = ProbeHooks(probe)
    assert hooks.metrics == {"full_metric": Metric("full_metric", "all of it", "higher", "geometry")}
    assert (hooks.order, hooks.settings) == (3, {"size": 2})
    assert hooks.needs_quiet
    assert hooks.collective
    assert hooks.is_busy()
    hooks.prepare()
    hooks.begin([])
    assert probe.heard == ["prepare", []]


def test_a_probe_of_single_stages_is_never_collective():
    probe = Bare()
    probe.collective = True
    assert not ProbeHooks(probe).collective


def test_what_the_code_of_a_probe_raises_is_passed_on_in_a_sentence():
    class Failing(Bare):
        @property
        def settings(self):
            raise ValueError("no settings today")

        def is_busy(self):
            raise OSError("gone")

    for asked in (lambda hooks: hooks.settings, lambda hooks: hooks.is_busy()):
        with pytest.raises(UserCodeError, match="raised"):
            asked(ProbeHooks(Failing()))


@pytest.mark.parametrize(
    ("declared", "value", "said"),
    [
        ("metrics", ["bare_metric"], r"its metrics are \['bare_metric'\]; expected a list of Metric"),
        ("metrics", Metric("bare_metric"), "expected a list of Metric"),
        ("order", "first", "order of the probe 'bare' is 'first'"),
        ("order", -1, "whole number of 0 or more"),
    ],
)
def test_a_declaration_that_cannot_be_is_refused_before_anything_runs(make_stage, declared, value, said):
    probe = Bare()
    setattr(probe, declared, value)
    for use in (name_of, lambda probe: run_probes([make_stage()], [probe])):
        with pytest.raises(ProbeError, match=said):
            use(probe)


@pytest.mark.parametrize(
    ("title", "better", "family", "said"),
    [
        ("x" * 81, None, "other", "its title is"),
        ("two\nlines", None, "other", "printable text of at most 80 characters"),
        ("title", "up", "other", "better is 'up'; expected 'higher', 'lower' or None"),
        ("title", None, "", "its family is ''"),
    ],
)
def test_a_metric_that_cannot_be_shown_is_refused(title, better, family, said):
    with pytest.raises(LwexplainError, match=said):
        Metric("mine", title, better, family)


def test_a_metric_without_a_title_is_called_by_its_name():
    assert Metric("my_own_metric").title == "my own metric"


def test_what_a_probe_can_no_longer_declare_is_a_failure_and_its_numbers_stand(make_stage):
    class Forgetful(Bare):
        measured = False

        @property
        def metrics(self):
            if self.measured:
                raise ValueError("forgotten")
            return ()

        def measure(self, stage):
            self.measured = True
            return super().measure(stage)

    run = run_probes([make_stage()], [Forgetful()])
    assert [row["metric"] for row in run.rows] == ["bare_metric"]
    assert "forgotten" in run.failures[0]["error"]


def test_only_metrics_that_were_given_are_declared_with_the_results(make_stage):
    class Two(Bare):
        metrics = (Metric("bare_metric", "bare"), Metric("never_given", "never"))

    assert run_probes([make_stage()], [Two(), Full()]).metrics == {"bare_metric": Metric("bare_metric", "bare")}
