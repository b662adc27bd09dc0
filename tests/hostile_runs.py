"""Runs as a hostile or careless stranger may leave them: one good run, its files changed one at a time, and what the
commands make of it. A worker process watches what they open, fetch and start."""

import contextlib
import io
import json
import os
import random
import resource
import shutil
import signal
import sys
import time
import traceback
from pathlib import Path

import numpy as np
import pandas as pd

SECONDS = 10  # of computing
BYTES = 2**30  # beyond what is loaded before the command
CANARY = "canary-3c1f"

CONFIG = {
    "data": {"name": "synthetic", "batch_size": 32, "options": {"samples": 240, "size": 8, "classes": 3}},
    "model": {"name": "cnn", "width": 4, "options": {"depth": 2}},
    "training": {"strategy": "greedy", "epochs": 1, "keep": "best"},
    "device": "cpu",
}
PROBES = ["head", "linear", "pca", "saliency"]

READERS = ("recommend", "compare", "report", "reader")
COMMANDS_OF = {
    "run.json": (*READERS, "analyze"),
    "config.yaml": ("report", "analyze"),
    "environment.json": ("report",),
    "events.jsonl": ("report", "reader", "resume"),
    "checkpoints": ("analyze", "export", "resume"),
    "analysis/analysis.json": READERS,
    "analysis/metrics.parquet": (*READERS, "export"),
    "analysis/recommendation.json": ("report",),
    "analysis/parts": ("analyze",),
    "analysis/features": ("analyze",),
    "analysis": ("report", "reader"),
    ".lock": ("analyze", "resume"),
}


def commands_of(name):
    """The commands that read a file."""
    return next(commands for start, commands in COMMANDS_OF.items() if name.startswith(start))


def make_good_run(path):
    """A small run, trained and analyzed, and beside it one whose training was interrupted."""
    from lwexplain import api
    from lwexplain.probes.base import PROBES as KNOWN

    api.train(CONFIG, run_dir=path / "run", quiet=True)
    api.analyze(path / "run", [name for name in PROBES if name in KNOWN], quiet=True)
    api.recommend(path / "run")
    shutil.copytree(path / "run", path / "other")
    (path / "run" / ".lock").touch()


# ---------------------------------------------------------------------- changes of a file

VALUES = [
    None, True, -1, 0, 1.5, 1e308, 10**15, "9", "", [], {}, [1] * 9, {"a": 1}, "../../outside/canary.json", "/dev/zero",
    "\x1b[2J\x1b]0;title\x07", "x" * 200_000, "ü\u2028\n", "<script>alert(1)</script>", "$(touch /tmp/x)", ["a", "a"],
    "$(id)", "![](http://example.org/x)", 2**62, "nan", [[[]]], ["s"] * 5000,
]  # fmt: skip


def places(tree, prefix=()):
    """All places of a tree of mappings and lists."""
    items = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    for key, value in list(items)[:40]:
        yield (*prefix, key)
        yield from places(value, (*prefix, key))


def change_leaf(tree, rng):
    """Another value at a random place, or the place deleted."""
    found = list(places(tree))
    if not found:
        return VALUES[rng.randrange(len(VALUES))]
    *way, last = rng.choice(found)
    node = tree
    for key in way:
        node = node[key]
    if isinstance(node, dict) and rng.random() < 0.25:
        del node[last]
    else:
        node[last] = rng.choice(VALUES)
    return tree


def change_text(path, rng):
    """JSON or YAML with another value, nested deeply, repeated, with aliases or with numbers beyond all bounds."""
    import yaml

    is_yaml, is_lines = path.suffix == ".yaml", path.suffix == ".jsonl"
    text = path.read_text()
    kind = rng.choice(["leaf"] * 6 + ["deep", "many", "number", "nan", "alias", "bytes", "tag"])
    if kind == "leaf":
        if is_yaml:
            text = yaml.safe_dump(change_leaf(yaml.safe_load(text), rng))
        elif is_lines:
            lines = text.splitlines()
            place = rng.randrange(len(lines))
            lines[place] = json.dumps(change_leaf(json.loads(lines[place]), rng))
            text = "\n".join(lines) + "\n"
        else:
            text = json.dumps(change_leaf(json.loads(text), rng))
    elif kind == "deep":
        text = "[" * 100_000 + "]" * 100_000
    elif kind == "many":
        text = json.dumps({str(number): [] for number in range(200_000)})
    elif kind == "number":
        text = text.replace("1", "1" * 5000, 1)
    elif kind == "nan":
        text = text.replace("1", "NaN", 1)
    elif kind == "alias":
        names = [f"a{number}: &a{number} [{', '.join([f'*a{number - 1}'] * 9)}]" for number in range(1, 12)]
        text = "\n".join(["a0: &a0 [x, x]", *names, "loop: &loop [*loop]"])
    elif kind == "tag":
        text = f"!!python/object/apply:os.system ['{CANARY}']\n"
    else:
        path.write_bytes(bytes(rng.randrange(256) for _ in range(500)))
        return
    path.write_text(text)


def change_table(path, rng):
    """A parquet file with another column or another attribute."""
    frame = pd.read_parquet(path)
    attrs = frame.attrs
    column = rng.choice(list(frame.columns))
    kind = rng.choice(
        ["drop", "text", "nan", "negative", "fraction", "huge", "list", "attr", "attr", "rows", "long", "infinite"]
    )
    if kind == "drop":
        frame = frame.drop(columns=column)
    elif kind == "attr":
        attrs = change_leaf(dict(attrs), rng) if attrs else {"x": 1}
    elif kind == "rows":
        frame = rng.choice([frame.iloc[:0], pd.concat([frame, frame])])
    else:
        values = {"text": "9", "nan": np.nan, "negative": -1, "fraction": 1.5, "huge": 2**62, "list": [1]}
        value = (values | {"infinite": np.inf, "long": "y" * 10**6})[kind]
        frame[column] = [value] * len(frame)
    frame.attrs = attrs if isinstance(attrs, dict) else {}
    frame.to_parquet(path, index=False)


def change_array(path, rng):
    """An npy file of other numbers, another shape, or objects."""
    array = np.load(path)
    changed = rng.choice([
        array.astype(np.float64) * np.nan, array[:0], array.ravel(), array[None], np.array(["x"] * 4),
        -array.astype(int), np.zeros((1, 10**6), array.dtype), array.astype(">f4"),
    ])  # fmt: skip
    np.save(path, changed)


def change_tensors(path, rng):
    """A safetensors file with another state, another tensor, or another header."""
    from safetensors import safe_open
    from safetensors.torch import save_file

    from lwexplain.training.checkpoint import _digest

    if rng.random() < 0.2:
        raw = path.read_bytes()
        path.write_bytes((2**60).to_bytes(8, "little") + raw[8:])
        return
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata() or {}
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    name = rng.choice(sorted(tensors))
    kind = rng.choice(["state", "state", "drop", "shape", "type", "nan"])
    if kind == "state" and "state" in metadata:
        metadata["state"] = json.dumps(change_leaf(json.loads(metadata["state"]), rng))
    elif kind == "drop":
        del tensors[name]
    elif kind == "shape":
        tensors[name] = tensors[name].reshape(-1)[:1].clone()
    elif kind == "type":
        tensors[name] = tensors[name].double()
    else:
        tensors[name] = tensors[name].float() * float("nan")
    if "sha256" in metadata:
        metadata["sha256"] = _digest(tensors)
    save_file(tensors, path, metadata=metadata)


def change_kind(path, rng, outside):
    """Something else in the place of a file: nothing, half of it, a link, a pipe, a folder, a terabyte of zeros."""
    kind = rng.choice(["gone", "empty", "half", "link", "link", "device", "pipe", "folder", "terabyte", "folder link"])
    if kind == "half":
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
        return kind
    if kind == "folder link" and path.parent.name not in ("run", "outside"):
        shutil.rmtree(path.parent)
        path.parent.symlink_to(outside)
        return kind
    path.unlink(missing_ok=True)
    if kind == "empty":
        path.touch()
    elif kind in ("link", "folder link"):
        path.symlink_to(outside / ("canary.json" if rng.random() < 0.5 else path.name))
    elif kind == "device":
        path.symlink_to("/dev/zero")
    elif kind == "pipe":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    elif kind == "terabyte":
        with path.open("wb") as file:
            file.truncate(2**40)
    return kind


CHANGES = {".json": change_text, ".yaml": change_text, ".jsonl": change_text, ".parquet": change_table,
           ".npy": change_array, ".safetensors": change_tensors}  # fmt: skip


def change(path, rng, outside):
    """Change a file; half of the time what it is, half of the time what it says."""
    by_content = CHANGES.get(path.suffix)
    if by_content is None or path.stat().st_size == 0 or rng.random() < 0.4:
        return change_kind(path, rng, outside)
    by_content(path, rng)
    return by_content.__name__


# ---------------------------------------------------------------------- the commands


def run_command(command, run, good, out):
    from lwexplain import api

    if command == "recommend":
        api.recommend(run)
    elif command == "compare":
        api.compare([run, good])
    elif command == "report":
        api.report(run)
    elif command == "resume":
        resumed = json.loads((run / "run.json").read_text()) | {"status": "training"}
        (run / "run.json").write_text(json.dumps(resumed))
        api.train(CONFIG, run_dir=run, resume=True, quiet=True)
    elif command == "analyze":
        with contextlib.suppress(OSError):
            (run / "analysis" / "analysis.json").unlink()
        api.analyze(run, ["head", "linear"], quiet=True)
    elif command == "export":
        api.export(run, out / "net.pt2", depth=1, quiet=True)
    else:
        read_as_the_app_does(run)


def read_as_the_app_does(run):
    from lwexplain.explorer import run_reader

    opened = run_reader.Run.open(run)
    run_reader.metrics(opened)
    run_reader.predictions(opened)
    for method in run_reader.embedding_methods(opened):
        run_reader.embedding(opened, method)
    run_reader.thumbnails(opened)
    run_reader.attributions(opened)
    run_reader.events(opened)


class TooLong(Exception):
    pass


def watch(outside):
    """Note whatever is opened below ``outside``, fetched or started."""
    seen = []

    def hook(event, arguments):
        if event == "open" and str(outside) in str(arguments[0]):
            seen.append(f"opened {arguments[0]}")
        elif event in ("socket.connect", "socket.getaddrinfo", "os.system", "subprocess.Popen", "os.exec"):
            seen.append(f"{event} {arguments}")

    sys.addaudithook(hook)
    return seen


def contents_of(folder):
    return {
        path.relative_to(folder).as_posix(): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()
    }


def try_changes(good, scratch, seeds):
    """Change the good run once a seed, let its commands loose on it, and return what was wrong: a list of texts."""
    import torch

    from lwexplain.errors import LwexplainError

    torch.set_num_threads(1)
    os.fsync = lambda descriptor: None  # nothing here need outlast a power cut
    outside, run = scratch / "outside", scratch / "run"
    outside.mkdir(parents=True)
    (outside / "canary.json").write_text(json.dumps({"token": CANARY}))
    files = sorted(path.relative_to(good / "run") for path in (good / "run").rglob("*") if path.is_file())
    for path in files:  # whatever a link with the name of a file leads to is there
        if not (outside / path.name).exists():
            shutil.copy(good / "run" / path, outside / path.name)
    for command in ("recommend", "report", "reader", "analyze", "export", "resume"):  # loads what commands load
        shutil.copytree(good / "run", run)
        run_command(command, run, good / "other", scratch)
        shutil.rmtree(run)
    before, seen, wrong, slowest = contents_of(outside), watch(outside), [], 0.0
    size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (size + BYTES, resource.RLIM_INFINITY))

    def too_long(*_):
        raise TooLong

    signal.signal(signal.SIGPROF, too_long)
    signal.signal(signal.SIGALRM, too_long)
    for seed in seeds:
        rng = random.Random(seed)
        name = files[seed % len(files)]
        for command in commands_of(name.as_posix()):
            rng = random.Random(seed)
            shutil.copytree(good / "run", run)
            kind = change(run / name, rng, outside)
            seen.clear()
            said = io.StringIO()
            started = time.process_time()
            signal.setitimer(signal.ITIMER_PROF, SECONDS)
            signal.setitimer(signal.ITIMER_REAL, 12 * SECONDS)
            problem = None
            try:
                with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
                    run_command(command, run, good / "other", scratch)
            except LwexplainError as error:
                said.write(str(error))
                if len(str(error)) > 5000:
                    problem = f"{len(str(error))} characters of error"
            except BaseException:
                problem = traceback.format_exc(limit=-4)
            signal.setitimer(signal.ITIMER_PROF, 0)
            signal.setitimer(signal.ITIMER_REAL, 0)
            slowest = max(slowest, time.process_time() - started)
            report = run / "report.html"
            written = report.read_text(errors="replace") if report.is_file() and not report.is_symlink() else ""
            if problem is None and CANARY in said.getvalue() + written:
                problem = "content of a file outside was shown"
            if problem is None and seen:
                problem = f"outside: {seen[:3]}"
            if problem is None and contents_of(outside) != before:
                problem = "a file outside was changed"
            if problem is not None:
                wrong.append(f"seed {seed}, {name} ({kind}), {command}: {problem}")
                print(wrong[-1], file=sys.__stderr__, flush=True)
            for path in (run, scratch / "net.pt2"):
                shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink(missing_ok=True)
    return wrong, slowest


if __name__ == "__main__":
    base = Path(sys.argv[1])
    if not (base / "good").exists():
        make_good_run(base / "good")
    first, last = int(sys.argv[2]), int(sys.argv[3])
    place = base / f"work{first}"
    shutil.rmtree(place, ignore_errors=True)
    began = time.process_time()
    found, longest = try_changes(base / "good", place, range(first, last))
    print(f"{len(found)} wrong, longest {longest:.1f} s, {time.process_time() - began:.0f} s in all", flush=True)
