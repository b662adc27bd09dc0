"""Odd calls of every public function: each is refused in a line or two, or does what it says."""

import pathlib
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import lwexplain as lw
from lwexplain.errors import LwexplainError, UserCodeError

TINY = {
    "data": {"name": "synthetic", "batch_size": 32, "options": {"samples": 240, "size": 8, "classes": 3}},
    "model": {"name": "cnn", "width": 4, "options": {"depth": 2}},
    "training": {"strategy": "greedy", "epochs": 1, "head": "conv", "optimizer": {"lr": 0.05}},
}
LONGEST_MESSAGE = 400
NAN = float("nan")


@dataclass
class Given:
    """What the calls of the table work on; nothing of it is changed by a refused call."""

    run: lw.Run
    table: pd.DataFrame
    folder: pathlib.Path

    @property
    def path(self):
        return str(self.run.path)


@pytest.fixture(scope="module")
def given(tmp_path_factory):
    folder = tmp_path_factory.mktemp("odd")
    run = lw.train(TINY, run_dir=folder / "run", quiet=True)
    table = lw.analyze(run, ["head", "ncm"], quiet=True)
    (folder / "empty").mkdir()
    (folder / "notes.txt").write_text("not a run")
    (folder / "broken").mkdir()
    (folder / "broken" / "run.json").write_text("{")
    return Given(run, table, folder)


# ---------------------------------------------------------------------- models, batches and probes to call with


def network(channels=3):
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(channels, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3)
    ).eval()


def images(n=12, channels=3):
    return torch.randn(n, channels, 8, 8, generator=torch.Generator().manual_seed(0))


LABELS = torch.arange(12) % 3


def loaders(batch=None, **splits):
    """Batches for train and val, the same ``batch`` for both unless a split is given."""
    usual = [(images(), LABELS)] if batch is None else [batch]
    return {"train": usual, "val": usual} | splits


def analyze_model(model=None, data=None, stages=("0", "4"), probes=("ncm",), **options):
    return lw.analyze_model(
        network() if model is None else model,
        loaders() if data is None else data,
        stages,
        probes,
        quiet=True,
        **options,
    )


class Failing(nn.Module):
    """A model whose forward raises."""

    def __init__(self, error):
        super().__init__()
        self.layer, self.error = nn.Conv2d(3, 3, 1), error

    def forward(self, x):
        self.layer(x)
        raise self.error


class FailingLoader:
    def __iter__(self):
        yield images(), LABELS
        raise OSError("the disk is gone")


class ForgetfulLoader:
    """Has a length, and looks like a loader until it is read."""

    def __len__(self):
        return 1

    def __iter__(self):
        raise NotImplementedError


class NotIterable:
    """A batch object with fields in place of parts."""

    def __init__(self):
        self.pictures, self.classes = images(), LABELS

    def __len__(self):
        return 2

    def __iter__(self):
        raise TypeError("this batch has fields")


class Unreadable:
    """An object that fails at whatever is asked of it."""

    def __getattr__(self, name):
        raise RuntimeError("no")

    def __repr__(self):
        raise RuntimeError("no")


class Norm:
    name = "norm"

    def measure(self, stage):
        return {"norm": float(np.abs(stage.features["val"]).mean())}


def quantised():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.ao.quantization.quantize_dynamic(network(), {nn.Linear}, dtype=torch.qint8)


def lazy():
    return nn.Sequential(nn.LazyConv2d(4, 3), nn.Flatten(), nn.LazyLinear(3))


def on_meta():
    with torch.device("meta"):
        return network()


def scripted():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.jit.trace(network(), images(1))


def with_value(tensor, value):
    tensor = tensor.clone()
    tensor.view(-1)[7] = value
    return tensor


def exhausted():
    once = iter([(images(), LABELS)])
    list(once)
    return once


def shared_iterator():
    once = iter([(images(), LABELS)] * 2)
    return {"train": once, "val": once}


# ---------------------------------------------------------------------- the table

Call = Callable[[Given], Any]
REFUSED: dict[str, tuple[str, Call]] = {}
"""A call, by what is odd about it: the words its message must have, and the call."""


def refuse(words, cases):
    for name, call in cases.items():
        assert name not in REFUSED, name
        REFUSED[name] = (words, call)


ODD_RUNS: dict[str, Callable[[Given], Any]] = {
    "None": lambda _: None,
    "a number": lambda _: 3,
    "True": lambda _: True,
    "bytes": lambda given: given.path.encode(),
    "a function": lambda _: len,
    "the class Run": lambda _: lw.Run,
    "a list of one": lambda given: [given.run],
    "a mapping": lambda given: {"run": given.run},
    "a tensor": lambda _: torch.zeros(200, 200),
    "an unreadable object": lambda _: Unreadable(),
    "empty text": lambda _: "",
    "a null byte": lambda given: given.path + "\0",
    "a name of 300 characters": lambda given: str(given.folder / ("a" * 300)),
    "a path of 5000 characters": lambda given: str(given.folder / "/".join(["a" * 99] * 50)),
    "an absent folder": lambda given: given.folder / "absent",
    "an empty folder": lambda given: given.folder / "empty",
    "a file": lambda given: given.folder / "notes.txt",
    "a damaged run": lambda given: given.folder / "broken",
    "half a surrogate": lambda given: str(given.folder / "\ud800"),
}


def take_run(name, call, odd):
    for kind in odd:
        refuse(r"run|path", {f"{name} of {kind}": lambda given, kind=kind: call(given, ODD_RUNS[kind](given))})


take_run("analyze", lambda _, run: lw.analyze(run, ["ncm"]), list(ODD_RUNS))
take_run("report", lambda _, run: lw.report(run), list(ODD_RUNS))
take_run("recommend", lambda _, run: lw.recommend(run), list(ODD_RUNS))
take_run("export", lambda given, run: lw.export(run, given.folder / "net.pt2"), list(ODD_RUNS)[:11])
take_run("similarity", lambda given, run: lw.similarity(given.run, run), list(ODD_RUNS)[:11])
take_run("Run.open", lambda _, run: lw.Run.open(run), list(ODD_RUNS))
take_run("compare", lambda given, run: lw.compare([given.run, run]), list(ODD_RUNS)[:11])
refuse(
    r"compare needs two or more runs",
    {
        "compare a path": lambda given: lw.compare(given.path),
        "compare one run": lambda given: lw.compare(given.run),
        "compare a list of one": lambda given: lw.compare([given.run]),
        "compare nothing": lambda _: lw.compare([]),
        "compare None": lambda _: lw.compare(None),
        "compare a mapping": lambda given: lw.compare({"a": given.run, "b": given.run}),
        "compare an exhausted generator": lambda _: lw.compare(run for run in ()),
    },
)
refuse(
    "tolerance is a difference of accuracies",
    {
        f"{name} with the tolerance {value!r}": partial(lambda call, value, given: call(given, value), call, value)
        for name, call in {
            "recommend a run": lambda given, value: lw.recommend(given.run, value),
            "recommend a table": lambda given, value: lw.recommend(given.table, value),
            "compare": lambda given, value: lw.compare([given.run, given.run], value),
            "export": lambda given, value: lw.export(given.run, given.folder / "net.pt2", tolerance=value),
        }.items()
        for value in (True, False, "0.01", None, NAN, -0.1, 1, 1 + 2j, [0.1])
    },
)
refuse(
    "budget|cost",
    {
        f"recommend with the budgets {value!r}": partial(
            lambda value, given: lw.recommend(given.table, budgets=value), value
        )
        for value in (
            {"prams": 1e6},
            {"params": "1e6"},
            {"params": -1},
            {"params": 0},
            {"params": NAN},
            {"params": True},
            {"params": None},
            {1: 2},
            [("params", 1e6)],
            "params",
            1e6,
            [],
        )
    },
)
refuse(
    "objective",
    {
        f"recommend with the objective {value!r}": partial(
            lambda value, given: lw.recommend(given.table, objective=value), value
        )
        for value in ("size", None, 3, ["params"], "")
    },
)
refuse(
    ".",
    {
        "recommend from an empty table": lambda _: lw.recommend(pd.DataFrame()),
        "recommend from another table": lambda _: lw.recommend(pd.DataFrame({"a": [1, 2]})),
        "recommend from a table without rows": lambda given: lw.recommend(given.table.iloc[:0]),
        "recommend from a table without accuracies": lambda given: lw.recommend(
            given.table[given.table["metric"] == "parameters"]
        ),
        "recommend from a series": lambda given: lw.recommend(given.table["value"]),
        "recommend with retrain as text": lambda given: lw.recommend(given.table, retrain="no"),
    },
)
refuse(
    "probe",
    {
        f"{name} with {what}": partial(lambda call, value, given: call(given, value), call, value)
        for name, call in {
            "analyze": lambda given, value: lw.analyze(given.run, value),
            "analyze_model": lambda _, value: analyze_model(probes=value),
        }.items()
        for what, value in {
            "a probe as text": "linear",
            "no probe": [],
            "a misspelt probe": ["liner"],
            "a number as probes": 3,
            "a probe that is a number": [3],
            "a probe that is None": [None],
            "a probe outside of a list": Norm(),
            "the class of a probe": [Norm],
            "a probe twice": ["ncm", "ncm"],
            "two objects of one name": [Norm(), Norm()],
            "an unreadable probe": [Unreadable()],
            "a mapping of probes": {"ncm": True},
            "bytes as a probe": [b"ncm"],
        }.items()
    },
)
refuse(
    "max_samples",
    {
        f"{name} with max_samples {value!r}": partial(lambda call, value, given: call(given, value), call, value)
        for name, call in {
            "analyze": lambda given, value: lw.analyze(given.run, ["ncm"], max_samples=value),
            "similarity": lambda given, value: lw.similarity(given.run, given.run, max_samples=value),
        }.items()
        for value in ("100", 10.5, True, 0, -1, NAN, [100])
    },
)
refuse(
    "max_samples", {"similarity with three images": lambda given: lw.similarity(given.run, given.run, max_samples=3)}
)
refuse(
    "mem_limit|memory limit",
    {
        f"{name} with mem_limit {value!r}": partial(lambda call, value, given: call(given, value), call, value)
        for name, call in {
            "analyze": lambda given, value: lw.analyze(given.run, ["ncm"], mem_limit=value),
            "analyze_model": lambda _, value: analyze_model(mem_limit=value),
        }.items()
        for value in ("lots", "", "-2GB", "9" * 400 + "GB", True, NAN, 0, -5, [2], b"2GB", 1000)
        if not (name == "analyze" and value == 1000)
    },
)
refuse(
    "device",
    {
        f"{name} with the device {value!r}": partial(lambda call, value, given: call(given, value), call, value)
        for name, call in {
            "analyze": lambda given, value: lw.analyze(given.run, ["linear"], device=value),
            "analyze_model": lambda _, value: analyze_model(device=value),
            "attribute": lambda _, value: lw.attribute(network(), [images()], "saliency", device=value),
        }.items()
        for value in ("gpu", "cuda:-1", "cuda:99", "", 0, ["cpu"], "meta")
    },
)
refuse(
    "seed",
    {
        f"analyze_model with the seed {value!r}": partial(lambda value, _: analyze_model(seed=value), value)
        for value in ("0", None, True, -1, 2**32, 0.5, NAN)
    },
)
refuse(
    "pooling",
    {
        f"{name} with the pooling {value!r}": partial(lambda call, value, given: call(given, value), call, value)
        for name, call in {
            "analyze": lambda given, value: lw.analyze(given.run, ["ncm"], pooling=value),
            "analyze_model": lambda _, value: analyze_model(pooling=value),
        }.items()
        for value in ("men", None, 3, ["mean"], nn.Flatten)
    },
)
refuse(
    "precision",
    {
        f"analyze with the precision {value!r}": partial(
            lambda value, given: lw.analyze(given.run, ["ncm"], precision=value), value
        )
        for value in ("float16", None, 32, torch.float32, ["auto"])
    },
)
refuse(
    "classes",
    {
        f"analyze_model with the classes {value!r}": partial(lambda value, _: analyze_model(classes=value), value)
        for value in ([0, 1, 2], ["a", "a", "b"], ["a", "b"], [], "abc", {"a": 0}, 3, [None] * 3)
    }
    | {"analyze_model with the classes in a set": lambda _: analyze_model(classes={"a", "b", "c"})},
)
refuse(
    "stage",
    {
        f"analyze_model with the stages {what}": partial(lambda value, _: analyze_model(stages=value), value)
        for what, value in {
            "None": None,
            "as text": "04",
            "none": [],
            "a number": 3,
            "numbers": [0, 4],
            "modules": list(network()),
            "misspelt": ["00"],
            "twice": ["0", "0"],
            "in the wrong order": ["4", "0"],
            "never called": ["0", "9"],
            "a function": len,
        }.items()
    },
)
refuse(
    "model",
    {
        f"{name} {what}": partial(lambda call, make, _: call(make()), call, make)
        for name, call in {
            "analyze_model of": lambda model: lw.analyze_model(model, loaders(), ["0"], ["ncm"], quiet=True),
            "attribute": lambda model: lw.attribute(model, [images()], "saliency"),
        }.items()
        for what, make in {
            "None": lambda: None,
            "a number": lambda: 3,
            "text": lambda: "resnet18",
            "a function": lambda: len,
            "a class": lambda: nn.Identity,
            "a list of modules": lambda: list(network()),
            "a state dict": lambda: network().state_dict(),
            "a lazy model": lazy,
            "a model on meta": on_meta,
            "a quantised model": quantised,
            "a TorchScript model": scripted,
            "a failing model": lambda: Failing(KeyError("weights")),
            "a model that runs out of ideas": lambda: Failing(StopIteration()),
        }.items()
        if not (name == "attribute" and what == "a TorchScript model")
    },
)
refuse(
    "loader|batch",
    {
        f"analyze_model with {what}": partial(lambda make, _: analyze_model(data=make()), make)
        for what, make in {
            "loaders in a list": lambda: [[(images(), LABELS)], [(images(), LABELS)]],
            "one loader": lambda: DataLoader(TensorDataset(images(), LABELS), 4),
            "a tensor as loaders": images,
            "a number as loaders": lambda: 3,
            "no loaders": dict,
            "no val": lambda: {"train": [(images(), LABELS)]},
            "a split of another name": lambda: loaders(validation=[(images(), LABELS)]),
            "a split that is a number": lambda: loaders() | {3: []},
            "a loader that is None": lambda: loaders(val=None),
            "a loader that is a number": lambda: loaders(val=3),
            "a loader that is a tensor": lambda: loaders(val=images()),
            "a loader that is text": lambda: loaders(val="val"),
            "a loader that is a mapping": lambda: loaders(val={"x": images()}),
            "an empty loader": lambda: loaders(val=[]),
            "an exhausted loader": lambda: loaders(val=exhausted()),
            "one iterator for both splits": shared_iterator,
            "a loader of empty batches": lambda: loaders(val=[(images()[:0], LABELS[:0])]),
            "a failing loader": lambda: loaders(train=FailingLoader()),
            "a loader that cannot be read": lambda: loaders(val=ForgetfulLoader()),
            "batches of images alone": lambda: loaders(images()),
            "batches of one part": lambda: loaders((images(),)),
            "batches of four parts": lambda: loaders((images(), LABELS, LABELS, LABELS)),
            "batches that are mappings of other names": lambda: loaders({"picture": images(), "label": LABELS}),
            "batches that are mappings without labels": lambda: loaders({"image": images()}),
            "single samples": lambda: loaders(val=TensorDataset(images(), LABELS)),
            "batches that are text": lambda: loaders("ab"),
            "batches that are objects": lambda: loaders(NotIterable()),
            "a batch that is None": lambda: loaders(val=[(images(), LABELS), None]),
            "labels before images": lambda: loaders((LABELS, images())),
            "images in a list of several shapes": lambda: loaders(([images()[0], images()[0, :, 1:]], LABELS[:2])),
            "images as integers": lambda: loaders(((images() * 50).long(), LABELS)),
            "images as booleans": lambda: loaders((images() > 0, LABELS)),
            "complex images": lambda: loaders((images().to(torch.complex64), LABELS)),
            "sparse images": lambda: loaders((images().to_sparse(), LABELS)),
            "images on meta": lambda: loaders((images().to("meta"), LABELS)),
            "images without a channel": lambda: loaders((images()[:, 0], LABELS)),
            "images of one dimension more": lambda: loaders((images()[None], LABELS[:1])),
            "flat images": lambda: loaders((images().flatten(1), LABELS)),
            "one number as images": lambda: loaders((torch.tensor(1.0), LABELS)),
            "a NaN in an image": lambda: loaders((with_value(images(), NAN), LABELS)),
            "infinity in an image": lambda: loaders((with_value(images(), float("inf")), LABELS)),
            "pixels after the first batch": lambda: loaders(val=[(images(), LABELS), (images().byte(), LABELS)]),
            "another size after the first batch": lambda: loaders(
                val=[(images(), LABELS), (torch.zeros(12, 3, 9, 9), LABELS)]
            ),
            "an index in some batches": lambda: loaders(val=[(images(), LABELS, LABELS), (images(), LABELS)]),
            "too few labels": lambda: loaders((images(), LABELS[:5])),
            "labels as shares": lambda: loaders((images(), LABELS.float())),
            "labels as booleans": lambda: loaders((images(), LABELS > 0)),
            "one-hot labels": lambda: loaders((images(), torch.eye(3)[LABELS])),
            "labels below zero": lambda: loaders((images(), LABELS - 1)),
            "labels as text": lambda: loaders((images(), ["cat"] * 12)),
            "labels that are None": lambda: loaders((images(), None)),
            "labels of two thousand millions": lambda: loaders((images(), LABELS * 1_000_000_000)),
            "an index as text": lambda: loaders((images(), LABELS, ["a"] * 12)),
        }.items()
    },
)
refuse(
    r"raised RuntimeError",
    {
        "analyze_model with the wrong channels": lambda _: analyze_model(data=loaders((images(channels=1), LABELS))),
        "analyze_model with images that are too small": lambda _: analyze_model(
            data=loaders((images()[..., :2, :2], LABELS))
        ),
        "attribute with the wrong channels": lambda _: lw.attribute(network(), [images(channels=1)], "saliency"),
    },
)
refuse(
    "pooling",
    {
        "analyze_model with a failing pooling": lambda _: analyze_model(pooling=lambda raw: raw["x"]),
        "analyze_model with a pooling that gives None": lambda _: analyze_model(pooling=lambda raw: None),
        "analyze_model with a pooling that keeps the shape": lambda _: analyze_model(
            pooling=lambda raw: raw[:, None, None]
        ),
    },
)
refuse(
    "attribut",
    {
        f"attribute with {what}": partial(lambda make, _: make(), make)
        for what, make in {
            "no batches": lambda: lw.attribute(network(), []),
            "a number as batches": lambda: lw.attribute(network(), 3),
            "None as batches": lambda: lw.attribute(network(), None),
            "a failing loader": lambda: lw.attribute(network(), FailingLoader(), "saliency"),
            "a batch that is an object": lambda: lw.attribute(network(), [NotIterable()], "saliency"),
            "a batch that is a mapping": lambda: lw.attribute(network(), [{"picture": images()}], "saliency"),
            "a batch of labels alone": lambda: lw.attribute(network(), [{"labels": LABELS}], "saliency"),
            "a batch that is None": lambda: lw.attribute(network(), [None], "saliency"),
            "a batch that is text": lambda: lw.attribute(network(), ["images"], "saliency"),
            "a misspelt method": lambda: lw.attribute(network(), [images()], "salience"),
            "a method that is None": lambda: lw.attribute(network(), [images()], None),
            "a method that is a number": lambda: lw.attribute(network(), [images()], 3),
            "a method that is a class": lambda: lw.attribute(network(), [images()], nn.Identity),
            "a layer that is not there": lambda: lw.attribute(network(), [images()], "grad_cam", layer="9"),
            "a layer that is a module": lambda: lw.attribute(network(), [images()], "grad_cam", layer=network()[0]),
            "a layer that is a number": lambda: lw.attribute(network(), [images()], "grad_cam", layer=0),
            "a layer that is a list": lambda: lw.attribute(network(), [images()], "grad_cam", layer=["0"]),
            "no layer for grad_cam": lambda: lw.attribute(network(), [images()], "grad_cam"),
            "a target of another name": lambda: lw.attribute(network(), [images()], "saliency", target="best"),
            "a target beyond the classes": lambda: lw.attribute(network(), [images()], "saliency", target=3),
            "a target below zero": lambda: lw.attribute(network(), [images()], "saliency", target=-1),
            "a target that is a share": lambda: lw.attribute(network(), [images()], "saliency", target=0.5),
            "a target that is a list": lambda: lw.attribute(network(), [images()], "saliency", target=[0]),
            "a target that is a tensor": lambda: lw.attribute(network(), [images()], "saliency", target=LABELS),
            "the target label without labels": lambda: lw.attribute(network(), [images()], "saliency", target="label"),
            "labels as text": lambda: lw.attribute(network(), [(images(), ["a"] * 12)], "saliency"),
            "labels as shares": lambda: lw.attribute(network(), [(images(), LABELS + 0.5)], "saliency", target="label"),
            "too few labels": lambda: lw.attribute(network(), [(images(), LABELS[:3])], "saliency"),
            "an index as shares": lambda: lw.attribute(network(), [(images(), LABELS, LABELS / 2)], "saliency"),
            "pixels of int32": lambda: lw.attribute(network(), [images().int()], "saliency"),
            "integers": lambda: lw.attribute(network(), [images().long()], "saliency"),
            "images without a channel": lambda: lw.attribute(network(), [images()[:, 0]], "saliency"),
            "a NaN in an image": lambda: lw.attribute(network(), [with_value(images(), NAN)], "saliency"),
            "images of two sizes": lambda: lw.attribute(network(), [images(), images()[..., :6]], "saliency"),
            "a chunk of zero": lambda: lw.attribute(network(), [images()], "saliency", chunk=0),
            "a chunk as text": lambda: lw.attribute(network(), [images()], "saliency", chunk="2"),
        }.items()
    },
)
refuse(
    ".",
    {
        f"train with {what}": partial(lambda call, given: call(given), call)
        for what, call in {
            "None as configuration": lambda given: lw.train(None, run_dir=given.folder / "x"),
            "a number as configuration": lambda given: lw.train(3, run_dir=given.folder / "x"),
            "a list as configuration": lambda given: lw.train([TINY], run_dir=given.folder / "x"),
            "the class Config": lambda given: lw.train(lw.Config, run_dir=given.folder / "x"),
            "an absent file": lambda given: lw.train(given.folder / "absent.yaml", run_dir=given.folder / "x"),
            "a folder as configuration": lambda given: lw.train(given.folder, run_dir=given.folder / "x"),
            "empty text as configuration": lambda given: lw.train("", run_dir=given.folder / "x"),
            "a null byte in the configuration's name": lambda given: lw.train("a\0b", run_dir=given.folder / "x"),
            "a name of 300 characters": lambda given: lw.train("a" * 300, run_dir=given.folder / "x"),
            "overrides in a list": lambda given: lw.train(TINY, ["training.epochs=1"], run_dir=given.folder / "x"),
            "an override of a number": lambda given: lw.train(TINY, {3: 4}, run_dir=given.folder / "x"),
            "an unknown key": lambda given: lw.train(TINY, {"training.epoch": 1}, run_dir=given.folder / "x"),
            "epochs as text": lambda given: lw.train(TINY, {"training.epochs": "many"}, run_dir=given.folder / "x"),
            "epochs as a tensor": lambda given: lw.train(
                TINY, {"training.epochs": torch.zeros(500)}, run_dir=given.folder / "x"
            ),
            "a run_dir that is a number": lambda given: lw.train(TINY, run_dir=3),
            "a run_dir that is empty": lambda given: lw.train(TINY, run_dir=""),
            "a run_dir with a null byte": lambda given: lw.train(TINY, run_dir="a\0b"),
            "a run_dir of 300 characters": lambda given: lw.train(TINY, run_dir=given.folder / ("a" * 300)),
            "a run_dir that is a file": lambda given: lw.train(TINY, run_dir=given.folder / "notes.txt"),
            "a run_dir that holds a run": lambda given: lw.train(TINY, run_dir=given.run.path),
            "resume as text": lambda given: lw.train(TINY, run_dir=given.run.path, resume="yes"),
            "quiet as text": lambda given: lw.train(TINY, run_dir=given.folder / "x", quiet="yes"),
        }.items()
    },
)
refuse(
    ".",
    {
        f"export with {what}": partial(lambda call, given: call(given), call)
        for what, call in {
            "out None": lambda given: lw.export(given.run, None),
            "out a number": lambda given: lw.export(given.run, 3),
            "out empty": lambda given: lw.export(given.run, ""),
            "out a folder": lambda given: lw.export(given.run, given.folder, format="pt2"),
            "out without a suffix": lambda given: lw.export(given.run, given.folder / "net"),
            "out with a null byte": lambda given: lw.export(given.run, "net\0.pt2"),
            "another format": lambda given: lw.export(given.run, given.folder / "net.pt2", format="pth"),
            "format a number": lambda given: lw.export(given.run, given.folder / "net.pt2", format=3),
            "depth zero": lambda given: lw.export(given.run, given.folder / "net.pt2", depth=0),
            "depth too deep": lambda given: lw.export(given.run, given.folder / "net.pt2", depth=9),
            "depth half": lambda given: lw.export(given.run, given.folder / "net.pt2", depth=1.5),
            "depth True": lambda given: lw.export(given.run, given.folder / "net.pt2", depth=True),
            "depth None": lambda given: lw.export(given.run, given.folder / "net.pt2", depth=None),
            "depth a misspelt stage": lambda given: lw.export(given.run, given.folder / "net.pt2", depth="conv9"),
            "depth a list": lambda given: lw.export(given.run, given.folder / "net.pt2", depth=["conv1"]),
            "another head": lambda given: lw.export(given.run, given.folder / "net.pt2", depth=1, head="linear"),
            "head None": lambda given: lw.export(given.run, given.folder / "net.pt2", depth=1, head=None),
            "early_exit as text": lambda given: lw.export(given.run, given.folder / "net.pt2", early_exit="yes"),
            "device a number": lambda given: lw.export(given.run, given.folder / "net.pt2", depth=1, device=3),
            "quiet as text": lambda given: lw.export(given.run, given.folder / "net.pt2", depth=1, quiet="yes"),
        }.items()
    },
)
refuse(
    ".",
    {
        "report to a number": lambda given: lw.report(given.run, 3),
        "report to a folder": lambda given: lw.report(given.run, given.folder),
        "report to empty text": lambda given: lw.report(given.run, ""),
        "report to a null byte": lambda given: lw.report(given.run, "a\0.html"),
        "report to a file below a file": lambda given: lw.report(given.run, given.folder / "notes.txt" / "a.html"),
        "analyze with quiet as text": lambda given: lw.analyze(given.run, ["ncm"], quiet="yes"),
        "analyze_model with quiet as a number": lambda _: lw.analyze_model(
            network(), loaders(), ["0"], ["ncm"], quiet=1
        ),
        "Run.create with a number as path": lambda _: lw.Run.create(3, ""),
        "Run.create with None as configuration": lambda given: lw.Run.create(given.folder / "new", None),
        "Run.create where something lies": lambda given: lw.Run.create(given.run.path, ""),
        "Run.find in a number": lambda _: lw.Run.find(3),
        "Run.find in None": lambda _: lw.Run.find(None),
        "Run.find with a null byte": lambda _: lw.Run.find("a\0b"),
    },
)


@pytest.mark.parametrize("name", REFUSED)
def test_an_odd_call_is_refused_in_a_line_or_two(name, given):
    words, call = REFUSED[name]
    before = sorted(path.name for path in given.folder.iterdir())
    with pytest.raises(LwexplainError, match=words) as refused:
        call(given)
    message = str(refused.value)
    assert len(message) <= LONGEST_MESSAGE
    assert len(message.splitlines()) <= 2
    assert "tensor([" not in message
    assert message.isprintable()
    assert sorted(path.name for path in given.folder.iterdir()) == before


def test_the_table_is_a_long_one():
    assert len(REFUSED) >= 220


# ---------------------------------------------------------------------- odd, and right


def value(table, metric):
    rows = table[(table["metric"] == metric) & (table["split"] == "val") & table["class"].isna()]
    return rows.sort_values("depth")["value"].tolist()


class Getting:
    """A loader that is read by ``__getitem__`` alone."""

    def __getitem__(self, position):
        if position:
            raise IndexError
        return images(), LABELS


@pytest.fixture(scope="module")
def usual():
    return value(analyze_model(), "ncm_accuracy")


@pytest.mark.parametrize(
    "call",
    [
        lambda: analyze_model(data=loaders((images(), LABELS[:, None]))),
        lambda: analyze_model(data=loaders((images(), LABELS.tolist()))),
        lambda: analyze_model(data=loaders((images(), LABELS.numpy().astype(np.uint8)))),
        lambda: analyze_model(data=loaders([images(), LABELS])),
        lambda: analyze_model(data=loaders((images().double(), LABELS))),
        lambda: analyze_model(data=loaders(train=iter([(images(), LABELS)]), val=iter([(images(), LABELS)]))),
        lambda: analyze_model(data=loaders(train=Getting(), val=Getting())),
        lambda: analyze_model(data=loaders(val=[(images()[:0], LABELS[:0]), (images(), LABELS)])),
        lambda: analyze_model(data=loaders(val=DataLoader(TensorDataset(images(), LABELS), 5))),
        lambda: analyze_model(classes=np.array(["a", "b", "c"])),
        lambda: analyze_model(classes=pd.Index(["a", "b", "c", "d"])),
        lambda: analyze_model(seed=np.int64(0)),
        lambda: analyze_model(mem_limit=64e9),
        lambda: analyze_model(mem_limit="64 GB"),
        lambda: analyze_model(device=torch.device("cpu")),
        lambda: analyze_model(probes=(name for name in ("ncm",))),
        lambda: analyze_model(pooling=lambda raw: raw if raw.ndim == 2 else raw.mean((2, 3))),
        lambda: analyze_model(model=network().double()),
    ],
)  # fmt: skip
def test_what_is_odd_but_clear_gives_the_usual_result(call, usual):
    assert value(call(), "ncm_accuracy") == pytest.approx(usual)


def test_runs_tolerances_and_numbers_may_come_in_any_clear_form(given):
    expected = lw.recommend(given.run, 0.25).to_dict()
    assert lw.recommend(given.path, np.float32(0.25)).to_dict() == expected
    assert lw.recommend(given.run.path, 0.25, budgets={"params": np.int64(10**9)}).depth == expected["depth"]
    assert lw.recommend(given.table, 0).tolerance == 0
    assert len(lw.compare(run for run in (given.run, given.path))) == 2
    assert len(lw.compare({given.path: 1, str(given.run.path) + "/": 2}.keys())) == 2
    table = lw.analyze(given.run, ("head", "ncm"), max_samples=np.int64(10_000), quiet=True)
    assert value(table, "ncm_accuracy") == value(given.table, "ncm_accuracy")


def test_tokens_and_rows_are_no_images_and_are_taken_as_they_are():
    torch.manual_seed(0)
    words = nn.Sequential(nn.Embedding(7, 4), nn.Flatten(), nn.Linear(20, 3))
    tokens = torch.randint(0, 7, (12, 5))
    assert len(value(analyze_model(words, loaders((tokens, LABELS)), ["0", "2"]), "ncm_accuracy")) == 2
    rows = nn.Sequential(nn.Linear(6, 4), nn.ReLU(), nn.Linear(4, 3))
    assert len(value(analyze_model(rows, loaders((torch.randn(12, 6), LABELS)), ["0", "2"]), "ncm_accuracy")) == 2


def test_what_the_users_own_code_raises_is_the_cause_of_the_error():
    failure = KeyError("weights")
    for call in (
        lambda: lw.analyze_model(Failing(failure), loaders(), ["layer"], ["ncm"], quiet=True),
        lambda: lw.attribute(Failing(failure), [images()], "saliency"),
    ):
        with pytest.raises(
            UserCodeError, match=r"the model, given .*\(.*3, 8, 8\), raised KeyError: 'weights'"
        ) as error:
            call()
        assert error.value.__cause__ is failure
    with pytest.raises(UserCodeError, match="the loader 'train' raised OSError: the disk is gone") as error:
        analyze_model(data=loaders(train=FailingLoader()))
    assert isinstance(error.value.__cause__, OSError)
    with pytest.raises(UserCodeError, match=r"the pooling, given .* raised ZeroDivisionError: division by zero"):
        analyze_model(pooling=lambda raw: 1 / 0)
