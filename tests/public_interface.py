"""What other people's scripts rely on: commands, configuration keys, names of metrics, keys of JSON, files of a run.

``python tests/public_interface.py`` writes them to ``public_interface.json`` beside this file. What stands there once
may be added to, and never goes away or changes its meaning without a line in the changelog.
"""

import json
import sys
import tempfile
from pathlib import Path
from shutil import copytree
from typing import Any

import pyarrow.parquet as pq
import typer
import yaml

FILE = Path(__file__).with_suffix(".json")
CONFIG = {
    "data": {"name": "synthetic", "batch_size": 32, "options": {"samples": 240, "size": 8, "classes": 3}},
    "model": {"name": "cnn", "width": 4, "options": {"depth": 2}},
    "training": {"strategy": "greedy", "epochs": 1, "head": "conv"},
}
REGISTRIES = {
    "datasets": "lwexplain.data.dataset:DATASETS",
    "models": "lwexplain.models.build:MODELS",
    "strategies": "lwexplain.training.strategies.base:STRATEGIES",
    "losses": "lwexplain.training.losses.base:LOSSES",
    "heads": "lwexplain.models.heads.base:HEADS",
    "probes": "lwexplain.probes.base:PROBES",
}


def interface(folder: Path) -> dict[str, Any]:
    """All of it; ``folder`` is empty and takes a small run that is trained, analyzed, advised on and exported."""
    return {
        "help": _help(),
        "commands": _commands(),
        "configuration": dict(sorted(_configuration_keys().items())),
        "names": _names(),
        "python": _python(),
    } | _what_a_run_holds(folder)


def missing(before: Any, now: Any, place: str = "") -> list[str]:
    """What stood in ``before`` and does not stand in ``now`` as it did, one line each."""
    if isinstance(before, dict) and isinstance(now, dict):
        return [line for key in before for line in missing(before[key], now.get(key), f"{place}/{key}")]
    if isinstance(before, list) and isinstance(now, list):
        return [f"{place}: {item!r} is gone" for item in before if item not in now]
    return [] if before == now else [f"{place}: was {before!r}, is {now!r}"]


def _help() -> dict[str, str]:
    """What ``lwexplain --help`` says of each command."""
    commands = _click().commands
    return {name: (commands[name].help or "").split("\n")[0] for name in sorted(commands)}


def _commands() -> dict[str, dict[str, Any]]:
    """Arguments and options of every command with what they are by default."""
    found: dict[str, dict[str, Any]] = {}
    for name, command in sorted(_click().commands.items()):
        found[name] = {}
        for parameter in command.params:
            written = sorted([*parameter.opts, *parameter.secondary_opts])
            key = ", ".join(written) if parameter.param_type_name == "option" else str(parameter.metavar)
            default = None if parameter.default is None else str(parameter.default)
            found[name][key] = {"default": default, "required": parameter.required, "several": parameter.nargs != 1}
    return found


def _click() -> Any:
    from lwexplain.cli import app

    return typer.main.get_command(app)


def _configuration_keys() -> dict[str, Any]:
    from lwexplain.config import Config

    return _flat(Config().model_dump(mode="json"))


def _flat(tree: dict[str, Any], place: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, dict) and value:
            flat |= _flat(value, f"{place}{key}.")
        else:
            flat[place + key] = value
    return flat


def _names() -> dict[str, list[str]]:
    """What ``lwexplain list`` lists."""
    from importlib import import_module

    found = {}
    for kind, home in REGISTRIES.items():
        module, name = home.split(":")
        found[kind] = list(getattr(import_module(module), name).names())
    return found


def _python() -> dict[str, Any]:
    """Public names; of functions the parameters with what they are by default."""
    import inspect

    import lwexplain

    found: dict[str, Any] = {}
    for name in lwexplain.__all__:
        thing = getattr(lwexplain, name)
        if not inspect.isfunction(thing):
            found[name] = {}
            continue
        parameters = inspect.signature(thing).parameters.values()
        found[name] = {
            item.name: [str(item.kind), None if item.default is item.empty else str(item.default)]
            for item in parameters
        }
    return found


def _what_a_run_holds(folder: Path) -> dict[str, Any]:
    """Files of a run, keys of its JSON files and of what the commands print as JSON, columns and attributes of its
    tables, and the metrics by the split they stand on."""
    import lwexplain as lw

    run = lw.train(CONFIG, run_dir=folder / "run", quiet=True)
    table = lw.analyze(run, quiet=True)
    advice = lw.recommend(run)
    exported = lw.export(run, depth=2, out=folder / "short.pt2", early_exit=True)
    lw.report(run)
    twin = lw.Run.open(copytree(run.path, folder / "twin"))
    lines = [json.loads(line) for line in (run.path / "events.jsonl").read_text().splitlines()]
    files = sorted(str(path.relative_to(run.path)) for path in run.path.rglob("*") if path.is_file())
    files = [name for name in files if not name.startswith(("analysis/features/", "analysis/parts/"))]
    return {
        "files": files,
        "json": {name: _keys(run.path / name) for name in files if name.endswith(".json")},
        "config.yaml": sorted(_flat(yaml.safe_load((run.path / "config.yaml").read_text()))),
        "events": {
            kind: sorted({key for line in lines if line.get("event") == kind for key in line})
            for kind in sorted({str(line.get("event")) for line in lines})
        },
        "parquet": {name: pq.read_schema(run.path / name).names for name in files if name.endswith(".parquet")},
        "attributes": sorted(table.attrs),
        "metrics": {str(name): sorted(set(part["split"])) for name, part in sorted(table.groupby("metric"))},
        "probes": {str(name): sorted(set(part["metric"])) for name, part in sorted(table.groupby("probe"))},
        "recommendation": sorted(advice.to_dict()),
        "fields": {type(found).__name__: _what_is_read_of(found) for found in (advice, exported)},
        "exported": sorted(exported.to_dict()),
        "comparison": list(lw.compare([run, twin]).columns),
        "similarity": list(lw.similarity(run, twin).columns),
    }


def _what_is_read_of(found: Any) -> list[str]:
    """Names of what an object holds, methods aside."""
    return [name for name in dir(found) if not name.startswith("_") and not callable(getattr(found, name))]


def _keys(path: Path) -> list[str]:
    content = json.loads(path.read_text())
    return sorted(content) if isinstance(content, dict) else []


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parent.parent))
    with tempfile.TemporaryDirectory() as temporary:
        FILE.write_text(json.dumps(interface(Path(temporary)), indent=1, sort_keys=True) + "\n")
