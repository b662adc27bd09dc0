"""Somebody's network from the place of its factory, ``package.module:factory``, as a person names it."""

import importlib
import inspect
from collections.abc import Callable, Mapping
from types import ModuleType
from typing import Any

from torch import nn

from lwexplain.arguments import shown, user_code
from lwexplain.errors import ModelError
from lwexplain.models.foreign import check_model
from lwexplain.registry import nearest


def build_from(spec: str, arguments: Mapping[str, Any] | None = None) -> nn.Module:
    """The network that the factory at ``spec`` returns, called with ``arguments`` by keyword.

    ``spec`` is ``package.module:factory``; the factory is a function or a class of that module, also one with dots
    (``Networks.small``). Only a person names it: nothing that is read from a run may come here.

    Raises ModelError for another form, a module or name that does not exist, arguments that the factory does not take,
    and a result that is no network; UserCodeError where the module or the factory itself raises.
    """
    place, name = _parts_of(spec)
    factory = _factory_in(_imported(place), name, spec)
    if arguments is not None and not isinstance(arguments, Mapping):
        raise ModelError(f"the arguments of {spec} are {shown(arguments)}; give them as a mapping of name to value")
    given = dict(arguments or {})
    _check_arguments(factory, given, spec)
    with user_code(f"the factory {spec}"):
        model = factory(**given)
    if not isinstance(model, nn.Module):
        raise ModelError(f"the factory {spec} returned {shown(model)}; it must return the network, a torch.nn.Module")
    return check_model(model)


def _parts_of(spec: str) -> tuple[str, str]:
    """The module's name and the factory's name in it."""
    module, colon, name = spec.partition(":") if isinstance(spec, str) else ("", "", "")
    words = [*module.split("."), *name.split(".")]
    if not colon or not all(word.isidentifier() for word in words):
        raise ModelError(
            f"the network is named as {shown(spec)}; expected package.module:factory, "
            "such as torchvision.models:resnet18"
        )
    return module, name


def _imported(name: str) -> ModuleType:
    with user_code(f"the module {name}, while it was imported,"):
        try:
            return importlib.import_module(name)
        except ModuleNotFoundError as error:
            missing = error.name or name
            if name == missing or name.startswith(f"{missing}."):
                raise ModelError(
                    f"there is no module {missing!r}, which {name!r} names; check the spelling, and start in the "
                    "folder that holds it or put that folder on PYTHONPATH"
                ) from None
            raise ModelError(
                f"the module {name!r} needs {missing!r}, which is not installed here; install it first"
            ) from None


def _factory_in(module: ModuleType, name: str, spec: str) -> Callable[..., Any]:
    found: Any = module
    for word in name.split("."):
        try:
            found = getattr(found, word)
        except AttributeError:
            public = [key for key in dir(found) if not key.startswith("_")]
            raise ModelError(f"{spec}: {_called(found)} has no {word!r}; {nearest(word, public)}") from None
    if isinstance(found, nn.Module):
        raise ModelError(f"{spec} is a network already; name a function that returns it, so that each call makes one")
    if not callable(found):
        raise ModelError(f"{spec} is {shown(found)}; expected a function or a class that makes the network")
    factory: Callable[..., Any] = found
    return factory


def _called(thing: Any) -> str:
    return f"the module {thing.__name__!r}" if isinstance(thing, ModuleType) else shown(thing)


def _check_arguments(factory: Callable[..., Any], arguments: Mapping[str, Any], spec: str) -> None:
    """Raise ModelError where the factory does not take these arguments, before anything of it runs."""
    for name in arguments:
        if not isinstance(name, str):
            raise ModelError(f"the arguments of {spec} hold the name {shown(name)}; names of arguments are text")
    try:
        signature = inspect.signature(factory)
    except (TypeError, ValueError):
        return  # some factories in C say nothing of what they take; the call itself will
    try:
        signature.bind(**arguments)
    except TypeError as error:
        takes = ", ".join(map(str, signature.parameters.values())) or "none"
        raise ModelError(f"{spec} cannot be called so: {error}; it takes {takes}") from None
