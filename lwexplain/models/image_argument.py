"""Which argument of somebody's model takes the images, and a call that gives them there."""

import inspect
from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from lwexplain.errors import ModelError

NAMES = ("pixel_values", "images", "image", "inputs", "input", "x")
"""How forward passes call their images, the surest first."""

WRAPPED = ("module", "_orig_mod", "base_model", "model")
"""Under which names a wrapper that passes all arguments on keeps the model that takes them."""

TRANSPARENT = ("module", "_orig_mod")
"""Those of DataParallel and torch.compile, which add no argument of their own."""

Parameter = inspect.Parameter
BY_PLACE = (Parameter.POSITIONAL_ONLY, Parameter.POSITIONAL_OR_KEYWORD)
VARIADIC = (Parameter.VAR_POSITIONAL, Parameter.VAR_KEYWORD)


def pass_images(model: nn.Module, images: Tensor) -> Any:
    """What ``model`` returns for ``images`` as they are, given by place or by keyword as ``image_keyword`` says."""
    keyword = image_keyword(model)
    return model(images) if keyword is None else model(**{keyword: images})


def image_keyword(model: nn.Module) -> str | None:
    """The keyword under which the forward of ``model`` takes images; None where it takes them as its first argument.

    A first argument without a default is the images, whatever its name. A wrapper that takes anything
    (``*args, **kwargs``) is asked for the model inside it. Raises ModelError where the forward needs more than images,
    or where no argument can be told to be the images.
    """
    chosen = _image_parameter(model)
    return chosen.name if chosen.kind == Parameter.KEYWORD_ONLY else None


def _image_parameter(model: nn.Module) -> Parameter:
    """The parameter that takes the images, KEYWORD_ONLY where they must be given by name."""
    parameters = _parameters(model)
    if parameters and all(parameter.kind in VARIADIC for parameter in parameters):
        return _image_parameter_of_wrapper(model, parameters[0])
    chosen = _parameter_of_images(parameters)
    if chosen is None:
        names = ", ".join(parameter.name for parameter in parameters) or "no arguments"
        raise ModelError(
            f"the forward of {type(model).__name__} takes {names}, and none of them can be told to be the images; "
            "wrap it in a module whose forward takes the images alone"
        )
    needed = [
        parameter.name
        for parameter in parameters
        if parameter is not chosen and parameter.default is Parameter.empty and parameter.kind not in VARIADIC
    ]
    if needed:
        raise ModelError(
            f"the forward of {type(model).__name__} needs {', '.join(needed)} besides the images; wrap it in a module "
            "whose forward takes the images alone"
        )
    return chosen if chosen is parameters[0] else chosen.replace(kind=Parameter.KEYWORD_ONLY)


def _parameters(model: nn.Module) -> list[Parameter]:
    """The parameters of a forward without ``self``; one that takes anything where Python cannot tell them."""
    try:
        return list(inspect.signature(model.forward).parameters.values())
    except (TypeError, ValueError):
        return [Parameter("args", Parameter.VAR_POSITIONAL)]


def _parameter_of_images(parameters: Sequence[Parameter]) -> Parameter | None:
    """The parameter that images are given to; None where no one can be told."""
    first = next(iter(parameters), None)
    by_place = first is not None and first.kind in (*BY_PLACE, Parameter.VAR_POSITIONAL)
    if by_place and first is not None and (first.default is Parameter.empty or first.name in NAMES):
        return first
    named = {parameter.name: parameter for parameter in parameters if parameter.kind not in VARIADIC}
    known = [named[name] for name in NAMES if name in named and named[name].kind != Parameter.POSITIONAL_ONLY]
    required = [parameter for parameter in named.values() if parameter.default is Parameter.empty]
    if known:
        return known[0]
    if len(required) == 1:
        return required[0]
    return first if by_place else None


def _image_parameter_of_wrapper(model: nn.Module, first: Parameter) -> Parameter:
    """That of a forward with ``*args``, ``**kwargs`` or both: the one of the model to which it passes them on."""
    inside = _image_parameter_inside(model)
    if first.kind == Parameter.VAR_POSITIONAL:
        return inside or first
    name = _name_in_code(model)
    if name is None:
        name = NAMES[0] if inside is None or inside.kind in VARIADIC else inside.name
    return Parameter(name, Parameter.KEYWORD_ONLY)


def _image_parameter_inside(model: nn.Module) -> Parameter | None:
    """None where a wrapper keeps no model that can be told, or one that it gives more than images."""
    parts = {name: part for name, part in model._modules.items() if part is not None}
    name = next((name for name in WRAPPED if name in parts), None)
    if name is None and len(parts) != 1:
        return None
    try:
        return _image_parameter(next(iter(parts.values())) if name is None else parts[name])
    except ModelError:
        if name in TRANSPARENT:
            raise
        return None


def _name_in_code(model: nn.Module) -> str | None:
    """The usual name that the code of a forward with ``**kwargs`` alone reads from them."""
    code = getattr(inspect.unwrap(model.forward), "__code__", None)
    constants = () if code is None else code.co_consts
    return next((name for name in NAMES if name in constants), None)
