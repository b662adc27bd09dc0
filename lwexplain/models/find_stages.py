"""The stages of any network: found by themselves, by a regular expression, or as named."""

import re
from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from lwexplain.arguments import shown, stage_names, user_code
from lwexplain.errors import CaptureError, ModelError
from lwexplain.models.calling import call_with_images
from lwexplain.models.image_path import ImagePath, path_of_image
from lwexplain.models.modules import find_modules, own_names, path_and_call
from lwexplain.models.stage_choice import choose_stages
from lwexplain.registry import nearest

AUTO = "auto"


def find_stages(model: nn.Module, image: Tensor, asked: str | Sequence[str] = AUTO) -> list[str]:
    """Names of the modules after which ``model`` can be cut, in the order in which they run on an ``image``.

    The image is (1, C, H, W). ``asked`` is ``"auto"``, a list of names, which is checked and comes back in the names of
    the model (``own_names``), or a regular expression that the whole name of a module matches. ``PATH#2`` is the second
    call of a module. The model is left as it was.

    Raises CaptureError for a name or expression that fits no module, ModelError where no stages can be found by
    themselves.
    """
    if not isinstance(asked, str):
        names = own_names(model, stage_names(asked))
        find_modules(model, names)
        return names
    path = watch_image(model, image)
    if asked == AUTO:
        return _found_by_themselves(model, path)
    return _matching(model, path, asked)


def watch_image(model: nn.Module, image: Tensor) -> ImagePath:
    """The way of the image through the model."""
    place = next((parameter.device for parameter in model.parameters()), image.device)
    where = f"{type(model).__name__}, given an image of shape {tuple(image.shape[1:])},"

    def run(x: Tensor) -> Any:
        with user_code(where):
            return call_with_images(model, x)

    return path_of_image(model, image[:1].to(place), run)


def _found_by_themselves(model: nn.Module, path: ImagePath) -> list[str]:
    found = choose_stages(path)
    if found:
        return [_outside_of_compiled(name) for name in found]
    children = [name for name, _ in model.named_children()]
    why = "no way leads from the image to its output" if path.logits is None else "nothing in it is a block or a layer"
    raise ModelError(
        f"{type(model).__name__} has no stages that are found by themselves: {why}; name them yourself "
        f"(stages=[...]), out of the names of model.named_modules(), which begin with {', '.join(children[:8])}"
    )


def _outside_of_compiled(name: str) -> str:
    """The compiled module in place of the one inside it."""
    path, call = path_and_call(name)
    path = path.removesuffix("._orig_mod")
    return path if call is None else f"{path}#{call}"


def _matching(model: nn.Module, path: ImagePath, asked: str) -> list[str]:
    try:
        pattern = re.compile(asked)
    except re.error as error:
        raise CaptureError(f"stages is {shown(asked)}, which is no regular expression: {error}") from None
    known = [name for name, _ in model.named_modules() if name]
    named = [name for name in known if pattern.fullmatch(name)]
    if not named:
        raise CaptureError(f"no module's name matches {shown(asked)} as a whole; {nearest(asked, known)}")
    calls = [call for call in path.root.within() if path_and_call(call.name)[0] in named]
    if not calls:
        raise CaptureError(f"none of the modules that match {shown(asked)} runs in a forward pass: {', '.join(named)}")
    names = [call.name for call in sorted(calls, key=lambda call: call.end)]
    for inner in names:
        outer = next((name for name in named if path_and_call(inner)[0].startswith(f"{name}.")), None)
        if outer is not None:
            raise CaptureError(
                f"{shown(asked)} matches {outer!r} and {inner!r}, which lies inside it; write an expression that "
                "matches only one of them"
            )
    return names
