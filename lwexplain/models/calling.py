"""Somebody's model is given images in the form that it takes."""

from typing import Any

from torch import Tensor, nn

from lwexplain.models.image_argument import image_keyword, pass_images
from lwexplain.models.modules import as_parameters

__all__ = ["call_with_images", "image_keyword"]


def call_with_images(model: nn.Module, images: Tensor) -> Any:
    """What ``model`` returns for ``images`` (N, C, H, W), cast by ``as_parameters``.

    They are its first argument, or stand under the keyword that ``image_keyword`` finds; all other arguments keep their
    defaults. Raises ModelError where the model needs more than images.
    """
    return pass_images(model, as_parameters(images, model))
