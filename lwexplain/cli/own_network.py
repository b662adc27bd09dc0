"""Commands for a network of one's own, named as package.module:factory."""

import contextlib
import json
import os
import re
import sys
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lwexplain.cli.commands import app as app
from lwexplain.cli.options import AsJson
from lwexplain.errors import ConfigError
from lwexplain.program import own_command
from lwexplain.terminal import say, say_json, say_table
from lwexplain.text_table import TextTable

if TYPE_CHECKING:
    from torch import nn

    from lwexplain.models.describe_stages import StageDescription

Model = Annotated[
    str,
    typer.Option(
        "--model",
        help="Where the network comes from: package.module:factory, a function or class that returns it. "
        "The current folder is searched, too.",
    ),
]
ModelArgs = Annotated[
    str | None, typer.Option("--model-args", help="What the factory is called with, as JSON: '{\"num_classes\": 10}'.")
]
ImageSize = Annotated[int, typer.Option(min=1, help="Height and width of the images in pixels.")]
Channels = Annotated[int, typer.Option(min=1, help="Channels of the images.")]
Stages = Annotated[
    str,
    typer.Option(
        "--stages",
        help="auto, names of modules with commas between them, or a regular expression that whole names match.",
    ),
]


@app.command()
def stages(
    model: Model,
    model_args: ModelArgs = None,
    image_size: ImageSize = 224,
    channels: Channels = 3,
    stages: Stages = "auto",
    as_json: AsJson = False,
) -> None:
    """Show the stages of a network of one's own, with outputs, parameters and FLOPs, before anything is run on data."""
    from lwexplain.models.describe_stages import describe_stages
    from lwexplain.models.find_stages import find_stages
    from lwexplain.models.stage_table import image_of_shape

    with current_folder_searched(), output_aside():
        network = network_of(model, model_args)
        image = image_of_shape((channels, image_size, image_size))
        found = describe_stages(network, image, find_stages(network, image, asked_stages(stages, network)))
    if as_json:
        say_json([{"depth": depth, **asdict(stage)} for depth, stage in enumerate(found, start=1)])
        return
    say_table(table_of_stages(found))
    total = sum(parameter.numel() for parameter in network.parameters())
    say(f"the whole network has {total:,} parameters; FLOPs are those of one image of {image_size}x{image_size}")
    words = ["--model", model, *(["--model-args", model_args] if model_args else []), "--image-size", str(image_size)]
    chosen = [] if stages == "auto" else ["--stages", stages]
    adopt = own_command("adopt", *words, *chosen)
    say(f"next: {adopt} --weights FILE --data folder --root DIR --run-dir NEW_DIR")


def table_of_stages(found: "list[StageDescription]") -> TextTable:
    """A line a stage: what it gives, what it has and does by itself, and all up to it."""
    return TextTable.of(
        list(enumerate(found, start=1)),
        {
            "depth": lambda item: str(item[0]),
            "stage": lambda item: item[1].name,
            "module": lambda item: item[1].module,
            "output": lambda item: "x".join(map(str, item[1].shape)),
            "parameters": lambda item: f"{item[1].parameters:,}",
            "to here": lambda item: f"{item[1].parameters_to_here:,}",
            "FLOPs": lambda item: f"{item[1].flops:,}",
            "FLOPs to here": lambda item: f"{item[1].flops_to_here:,}",
        },
    )


# ---------------------------------------------------------------------- what a person has named


def network_of(model: str, model_args: str | None) -> "nn.Module":
    """The network of ``--model`` and ``--model-args``; call it within ``current_folder_searched``."""
    from lwexplain.models.factory import build_from

    return build_from(model, arguments_in(model_args))


def arguments_in(text: str | None) -> Mapping[str, Any]:
    """The arguments that ``--model-args`` holds; raises ConfigError where it is no JSON object."""
    if text is None:
        return {}
    try:
        found = json.loads(text)
    except json.JSONDecodeError as error:
        raise ConfigError(
            f"--model-args is no JSON ({error.msg} at character {error.pos + 1}): {text[:60]}; "
            """write it as '{"num_classes": 10}', in single quotes"""
        ) from None
    if not isinstance(found, dict):
        raise ConfigError(f"""--model-args holds {text[:60]}; give an object of names and values: '{{"depth": 6}}'""")
    return found


def asked_stages(text: str, network: "nn.Module") -> str | list[str]:
    """What ``--stages`` asks for: ``auto``, a list of names, or a regular expression.

    A comma separates names; a single word that is no module's name is an expression, and so is text with commas that
    matches names as a whole and holds none itself (``block\\d{1,2}``).
    """
    from lwexplain.models.modules import path_and_call

    names = [name.strip() for name in text.split(",") if name.strip()]
    known = {name for name, _ in network.named_modules() if name}
    if any(path_and_call(name)[0] in known for name in names):
        return names
    if len(names) > 1:
        with contextlib.suppress(re.error):
            pattern = re.compile(text)
            return text if any(map(pattern.fullmatch, known)) else names
        return names
    return text.strip()


@contextlib.contextmanager
def current_folder_searched() -> Iterator[None]:
    """Within the block, modules in the current folder can be imported, as with ``python -m``."""
    here = os.getcwd()
    if here in sys.path:
        yield
        return
    sys.path.insert(0, here)
    try:
        yield
    finally:
        sys.path.remove(here)


def output_aside() -> contextlib.AbstractContextManager[Any]:
    """Within the block, what somebody's code prints goes to standard error, away from the results."""
    return contextlib.redirect_stdout(sys.stderr)
