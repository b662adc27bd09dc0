"""The numbers go to a person's own logger, under one kind of name, and a logger that fails ends no training."""

import warnings

import pytest
from plain_loop import STAGES, small_network, val_loader

import lwexplain as lw
from lwexplain.errors import CaptureError, LwexplainWarning
from lwexplain.monitoring.sinks import Sink

NUMBERS = {"lwexplain/layer1/ncm_accuracy": 0.5, "lwexplain/layer2/ncm_accuracy": 0.75}


class Run:
    """Called like a run of wandb, and as strict as one about how."""

    def __init__(self):
        self.logged = []

    def __call__(self, *_):
        raise AssertionError("a run is logged to, not called")

    def log(self, data, step=None, commit=None):
        assert isinstance(data, dict)
        self.logged.append((data, step))


def test_a_function_gets_numbers_and_step(tmp_path):
    got = []
    monitor = lw.Monitor(
        small_network(),
        val_loader(),
        STAGES,
        out=tmp_path / "live",
        sink=lambda numbers, step: got.append((numbers, step)),
    )
    numbers = monitor.step(3, force=True)
    monitor.step(4, force=True, sink_step=1200)
    assert [step for _, step in got] == [3, 1200]
    assert got[0][0]["lwexplain/6/ncm_accuracy"] == numbers["6"]["ncm_accuracy"]
    assert set(got[1][0]) - set(got[0][0]) == {f"lwexplain/{s}/{m}" for s in STAGES for m in ("cka_linear", "drift")}


def test_a_run_as_of_wandb_is_logged_to():
    run = Run()
    Sink(run)(NUMBERS, 7)
    assert run.logged == [(NUMBERS, 7)]


def test_a_logger_as_of_lightning_is_logged_to():
    class Logger:
        def log_metrics(self, metrics, step=None):
            self.got = metrics, step

    logger = Logger()
    Sink(logger)(NUMBERS, 2)
    assert logger.got == (NUMBERS, 2)


def test_the_writer_of_tensorboard_holds_the_numbers(tmp_path):
    tensorboard = pytest.importorskip("torch.utils.tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    with tensorboard.SummaryWriter(str(tmp_path)) as writer:
        sink = Sink(writer)
        sink(NUMBERS, 1)
        sink(NUMBERS, 2)
    events = EventAccumulator(str(tmp_path))
    events.Reload()
    assert sorted(events.Tags()["scalars"]) == sorted(NUMBERS)
    found = [(event.step, event.value) for event in events.Scalars("lwexplain/layer2/ncm_accuracy")]
    assert found == [(1, 0.75), (2, 0.75)]


def test_a_sink_that_raises_is_told_once_and_the_run_keeps_the_numbers(tmp_path):
    def broken(numbers, step):
        raise ConnectionError("no route to host")

    monitor = lw.Monitor(small_network(), val_loader(), STAGES, out=tmp_path / "live", sink=broken)
    with pytest.warns(LwexplainWarning, match="the sink raised ConnectionError: 'no route to host'"):
        assert monitor.step(0, force=True) is not None
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert monitor.step(1, force=True) is not None
    assert len(monitor.run.read_events()) == 2 * len(STAGES)


@pytest.mark.parametrize("thing", [3, "tensorboard", object()])
def test_what_is_no_sink_is_refused(thing):
    with pytest.raises(CaptureError, match="expected a function of"):
        Sink(thing)
