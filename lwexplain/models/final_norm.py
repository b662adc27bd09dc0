"""The network's own final normalisation: what its head sees its features through."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

from lwexplain.errors import CaptureError
from lwexplain.models.calling import call_with_images
from lwexplain.models.modules import in_evaluation

KINDS = (nn.LayerNorm, nn.GroupNorm, nn.RMSNorm, _NormBase)


def find_final_norm(model: nn.Module, image: Tensor, last: nn.Module) -> tuple[str, nn.Module]:
    """Name and module of the first normalisation that runs after ``last`` has run for the last time.

    That is what transformers and their kin put before their head (``norm``, ``layernorm``, ``head.norm``). One image
    (1, C, H, W) passes in evaluation mode; the model is left as it was. Raises CaptureError where there is none.
    """
    names = {id(part): name for name, part in model.named_modules() if isinstance(part, KINDS)}
    inside = {id(part) for part in last.modules()}
    after: list[nn.Module] = []

    def ran(module: nn.Module, *_: Any) -> None:
        if module is last:
            after.clear()
        elif id(module) not in inside:
            after.append(module)

    with in_evaluation(model), torch.no_grad():
        for part in model.modules():
            if isinstance(part, KINDS) or part is last:
                part.register_forward_hook(ran)
        call_with_images(model, image)
    if not after:
        raise CaptureError(
            f"{type(model).__name__} runs no normalisation between its last stage and its output; leave final_norm out"
        )
    return names[id(after[0])], after[0]


def normalised(norm: nn.Module, output: Tensor, stage: str) -> Tensor:
    """The raw output of a stage through the final normalisation; raises CaptureError where it does not fit."""
    try:
        found = norm(output.clone())
    except (RuntimeError, ValueError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        found = None
    else:
        reason = "it gives another shape"
    if not isinstance(found, Tensor) or found.shape != output.shape:
        raise CaptureError(
            f"the network's final normalisation ({type(norm).__name__}) does not take the output {tuple(output.shape)} "
            f"of stage {stage!r}: {reason}; leave final_norm out, or name stages of its width alone"
        )
    return found
