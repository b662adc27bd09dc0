"""The parts of the documentation that are made from the code: commands, configuration keys, what registries hold.

    python tests/docs/made_parts.py            # write them, between their markers

A part stands between ``<!-- made: NAME -->`` and ``<!-- end of made -->``. A test holds the pages against the code.
"""

import inspect
import re
import typing
from enum import Enum
from pathlib import Path
from types import UnionType

from pydantic import BaseModel
from typer.models import ArgumentInfo, OptionInfo

from lwexplain.cli import app
from lwexplain.config import Config
from lwexplain.data.dataset import DATASETS
from lwexplain.models.build import MODELS
from lwexplain.models.heads.base import HEADS
from lwexplain.probes.base import PROBES
from lwexplain.probes.engine import built_in_probes
from lwexplain.training.losses.base import LOSSES
from lwexplain.training.strategies.base import STRATEGIES

DOCS = Path(__file__).parents[2] / "docs"
VALUES = {str: "TEXT", int: "N", float: "X", Path: "PATH"}
"""What stands for the value of an option of each type."""


def commands():
    """Each command with its usage, arguments and options."""
    found = {command.name or command.callback.__name__: command.callback for command in app.registered_commands}
    return "\n\n".join(_command(name, found[name]) for name in sorted(found))


def _command(name, function):
    kinds = typing.get_type_hints(function, include_extras=True)
    parameters = [(item, *_kind_and_info(kinds[item.name])) for item in inspect.signature(function).parameters.values()]
    arguments = [_argument(item, kind, info) for item, kind, info in parameters if isinstance(info, ArgumentInfo)]
    options = [_option(item, kind, info) for item, kind, info in parameters if isinstance(info, OptionInfo)]
    usage = " ".join(["lwexplain", name, *(row[0] for row in arguments), *(["[OPTIONS]"] if options else [])])
    lines = [f"## `lwexplain {name}`", "", inspect.getdoc(function) or "", "", "```text", usage, "```", ""]
    lines += ["| argument or option | default | what it says |", "|---|---|---|"]
    lines += [f"| {_code(written)} | {default} | {_cell(text)} |" for written, text, default in arguments + options]
    return "\n".join(lines)


def _kind_and_info(annotation):
    """The plain type of a parameter, and what typer is told about it."""
    kind, info = typing.get_args(annotation)
    plain = [part for part in typing.get_args(kind) if part is not type(None)]
    return (plain[0] if isinstance(kind, UnionType) else kind), info


def _argument(item, kind, info):
    """An argument as the usage shows it: in brackets where it may be left out, with dots where it repeats."""
    if info.metavar:
        written = info.metavar
    elif isinstance(kind, type) and issubclass(kind, Enum):
        written = "|".join(str(choice.value) for choice in kind)
    else:
        written = item.name.upper()
    return written, info.help or "", _default(item)


def _option(item, kind, info):
    """An option as it is written: ``--out PATH``, ``--json``."""
    given = [info.default, *(info.param_decls or ())]  # inside Annotated, typer keeps the first name as the default
    names = [name for name in given if isinstance(name, str) and name.startswith("--")]
    name = names[0] if names else f"--{item.name.replace('_', '-')}"
    return (name if kind is bool else f"{name} {VALUES[kind]}"), info.help or "", _default(item)


def _default(item):
    if item.default is inspect.Parameter.empty:
        return "required"
    return "" if item.default is None or item.default is False else f"`{item.default}`"


def config_keys():
    """Every key, section by section, with what it takes, its default and its description."""
    return "\n\n".join(_section(title, prefix, model) for title, prefix, model in _sections("", Config))


def _sections(prefix, model):
    found = [(prefix.rstrip(".") or "The experiment", prefix, model)]
    for name, field in model.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            found += _sections(f"{prefix}{name}.", field.annotation)
    return found


def _section(title, prefix, model):
    heading = f"## `{title}`" if prefix else f"## {title}"
    about = model.__doc__.strip().splitlines()[0] if model is not Config and model.__doc__ else ""
    lines = [
        heading,
        "",
        *([about, ""] if about else []),
        "| key | values | default | what it is |",
        "|---|---|---|---|",
    ]
    properties = model.model_json_schema()["properties"]
    for name, field in model.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            continue
        default = field.get_default(call_default_factory=True)
        shown = "" if default is None or default == {} else f"`{_yaml(default)}`"
        lines.append(
            f"| `{prefix}{name}` | {_cell(_values(properties[name]))} | {shown} | {_cell(field.description or '')} |"
        )
    return "\n".join(lines)


def _values(schema):
    """What a key takes, in words, from its JSON schema."""
    if "enum" in schema:
        return ", ".join(f"`{value}`" for value in schema["enum"])
    if "anyOf" in schema:
        return " or ".join(_values(part) for part in schema["anyOf"] if part.get("type") != "null")
    words = {
        "integer": "whole number",
        "number": "number",
        "boolean": "true, false",
        "string": "folder" if schema.get("format") == "path" else "text",
        "array": "list",
        "object": "mapping",
    }[schema["type"]]
    bounds = [
        f"{sign} {schema[key]:,}"
        for key, sign in (("minimum", "≥"), ("exclusiveMinimum", ">"), ("maximum", "≤"), ("exclusiveMaximum", "<"))
        if key in schema
    ]
    return f"{words} {', '.join(bounds)}".strip()


def _yaml(value):
    if isinstance(value, bool):
        return str(value).lower()
    return f"[{', '.join(map(str, value))}]" if isinstance(value, (list, tuple)) else str(value)


def _names(registry, names=None):
    """What stands in a registry, with the first line of each docstring."""
    own = names or [name for name in registry.names() if name not in registry.third_party()]
    lines = [f"| `{name}` | {_cell(registry.summary(name).replace('``', '`'))} |" for name in own]
    return "\n".join([f"| {registry.kind} | what it is |", "|---|---|", *lines])


def _code(text):
    """Code in a cell of a table, whose bars would end the cell."""
    return f"<code>{text.replace('|', '&#124;')}</code>" if "|" in text else f"`{text}`"


def _cell(text):
    return text.replace("|", "\\|")


PARTS = {
    "commands": commands,
    "config_keys": config_keys,
    "datasets": lambda: _names(DATASETS),
    "models": lambda: _names(MODELS),
    "strategies": lambda: _names(STRATEGIES),
    "losses": lambda: _names(LOSSES),
    "heads": lambda: _names(HEADS),
    "probes": lambda: _names(PROBES, built_in_probes()),
}
MARKED = re.compile(r"^<!-- made: (\w+) -->\n.*?^<!-- end of made -->$", re.DOTALL | re.MULTILINE)


def with_parts(text):
    """The text of a page with every marked part made anew."""

    def make(match):
        return f"<!-- made: {match[1]} -->\n{PARTS[match[1]]()}\n<!-- end of made -->"

    return MARKED.sub(make, text)


if __name__ == "__main__":
    for page in sorted(DOCS.rglob("*.md")):
        page.write_text(with_parts(page.read_text(encoding="utf-8")), encoding="utf-8")
