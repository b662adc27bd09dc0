"""A network of one's own on the command line: named as package.module:factory, built in front of everything else."""

import contextlib
import json
import os
import re
import sys
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lwexplain.errors import ConfigError

if TYPE_CHECKING:
    from torch import nn

    from lwexplain.run import Run

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
Again = Annotated[
    str | None,
    typer.Option("--model", help="Of an adopted run: its network again, package.module:factory, as it was adopted."),
]


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


def with_network(run: "Run", model: str | None, model_args: str | None, device: str | None) -> "Run":
    """The run; of an adopted one with the network at hand that the person has named again."""
    if model is None:
        if model_args is not None:
            raise ConfigError("--model-args are those of --model, which is not given")
        return run
    from lwexplain.adoption.attach import attach

    with current_folder_searched(), output_aside():
        return attach(run, network_of(model, model_args), own=True, device=device)
