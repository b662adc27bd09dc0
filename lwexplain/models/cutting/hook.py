"""The last way to cut: run the network until a stage has given its output, and end the pass there."""

from typing import Any

from torch import Tensor, nn

from lwexplain.errors import ModelError
from lwexplain.models.calling import call_with_images
from lwexplain.models.cutting.observation import Observation
from lwexplain.models.cutting.parts import Cut, check_prefixes
from lwexplain.models.cutting.prefix import Prefix
from lwexplain.models.cutting.shared_copy import copy_structure, keep_used_tensors, name_without_compiled
from lwexplain.models.image_argument import pass_images
from lwexplain.models.modules import Enough, first_tensor, path_and_call
from lwexplain.models.outputs import logits_in


class RunUpTo(nn.Module):
    """Images -> the output of call ``number`` of the module at ``path``, after which ``network`` runs no further;
    ``to_the_end`` it does, for those that follow its calls and must see each of them end."""

    def __init__(self, network: nn.Module, path: str, number: int, *, to_the_end: bool = False) -> None:
        super().__init__()
        self.to_the_end = to_the_end
        self.network = network
        self.path = path
        self.number = number

    def forward(self, images: Tensor) -> Any:
        calls, found = 0, []

        def end(_module: nn.Module, _: Any, output: Any) -> None:
            nonlocal calls
            calls += 1
            if calls == self.number:
                tensor = first_tensor(output)
                if not self.to_the_end:
                    found.append(tensor)
                    raise Enough
                found.append(tensor if tensor is None else tensor.clone())  # what follows may overwrite it

        handle = self.network.get_submodule(self.path).register_forward_hook(end)
        try:
            pass_images(self.network, images)
        except Enough:
            pass
        finally:
            handle.remove()
        if not found:
            raise ModelError(
                f"stage {self.path!r} did not run for these images, as it did for others; choose stages that every "
                "image passes"
            )
        return found[0]


class WholeNetwork(nn.Module):
    """Images -> the logits (N, K), in whatever form the network returns them."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        return logits_in(call_with_images(self.network, images), images.shape[0])


def run_up_to(network: nn.Module, name: str, *, to_the_end: bool = False) -> RunUpTo:
    """``network`` itself, run up to the stage ``name``."""
    path, number = path_and_call(name_without_compiled(name))
    return RunUpTo(network, path, number or 1, to_the_end=to_the_end)


def cut_by_hook(seen: Observation) -> Cut:
    """A copy of the structure for each stage, with the tensors that the run up to there uses. Raises ModelError where
    the network does not do the same every time."""
    prefixes: list[nn.Module] = []
    for name, layout in zip(seen.names, seen.layouts, strict=True):
        prefix = Prefix(run_up_to(copy_structure(seen.model), name), layout)
        keep_used_tensors(prefix, lambda prefix=prefix: prefix(seen.images))  # type: ignore[misc]
        prefixes.append(prefix)
    check_prefixes(prefixes, seen)
    return Cut(prefixes)


def whole_network(seen: Observation) -> nn.Module:
    """The network up to its logits, with the tensors that they need."""
    whole = WholeNetwork(copy_structure(seen.model))
    keep_used_tensors(whole, lambda: whole(seen.images))
    return whole.eval()
