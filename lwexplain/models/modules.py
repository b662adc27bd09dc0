"""Work with somebody's module: find its parts, give it what it takes, and leave it as it was."""

import contextlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from lwexplain.arguments import shown
from lwexplain.errors import CaptureError, ModelError
from lwexplain.models.image_argument import pass_images
from lwexplain.models.module_state import ModuleState, ParameterState, random_states, set_random_states
from lwexplain.registry import nearest

# ---------------------------------------------------------------------- left as it was


@contextlib.contextmanager
def undisturbed(*modules: nn.Module) -> Iterator[None]:
    """Whatever happens inside, also an exception, ``modules`` and the global random states are afterwards as before.

    Of every submodule: training mode, hooks, buffers (the same tensors with the same values), tensors kept as plain
    attributes, device and dtype of the parameters, whether they require a gradient, and their ``grad``, which is None
    inside so that a backward pass adds nothing to it. Random states are those of torch (CPU, and CUDA where it is in
    use), NumPy and Python. Values of parameters are not copied: do not train inside.
    """
    parts = _parts_of(modules)
    kept = [ModuleState(part) for part in parts]
    parameters = list({id(p): p for part in parts for p in part.parameters(recurse=False) if not is_lazy(p)}.values())
    kept_parameters = [ParameterState(p, p.data, p.requires_grad, p.grad) for p in parameters]
    before = random_states()
    try:
        for parameter in parameters:
            parameter.grad = None
        yield
    finally:
        for part in kept:
            part.restore()
        for kept_parameter in kept_parameters:
            kept_parameter.restore()
        set_random_states(before)


@contextlib.contextmanager
def in_evaluation(*modules: nn.Module, device: torch.device | str | None = None) -> Iterator[None]:
    """``undisturbed``, with every submodule in evaluation mode and, where one is given, on ``device``.

    Modes are set flag by flag: a ``train()`` that a model overrides is not called. Compiled parts run eagerly, for
    their hooks would be ignored. Raises ModelError where a module would have to be moved from several devices.
    """
    with undisturbed(*modules):
        parts = _parts_of(modules)
        for part in parts:
            part.training = False
        for part in _parts_elsewhere(parts, device):
            _move(part, device)
        compiled = any(hasattr(part, "_orig_mod") or part._compiled_call_impl is not None for part in parts)
        with torch.compiler.set_stance("force_eager") if compiled else contextlib.nullcontext():
            yield


def without_gradients(model: nn.Module) -> None:
    """Let no parameter require a gradient; call it within ``undisturbed`` or ``in_evaluation``, which give it back.

    ``FlopCounterMode`` follows gradients, and fails where a view of a parameter is handed to a module without any.
    """
    for parameter in model.parameters():
        parameter.requires_grad = False


def _parts_elsewhere(parts: Iterable[nn.Module], device: torch.device | str | None) -> list[nn.Module]:
    """Modules whose own tensors do not lie on ``device``."""
    if device is None:
        return []
    wanted = torch.empty(0, device=device).device
    elsewhere = []
    for part in parts:
        places = {t.device for t in (*part._parameters.values(), *part._buffers.values()) if t is not None}
        if len(places) > 1:
            raise ModelError(
                f"{type(part).__name__} lies on several devices {sorted(map(str, places))}; move it to one first"
            )
        if places and places != {wanted}:
            elsewhere.append(part)
    return elsewhere


def _move(part: nn.Module, device: torch.device | str | None) -> None:
    """Move a module's own parameters and buffers, not those of its children."""
    children, part._modules = part._modules, {}
    try:
        part.to(device)
    finally:
        part._modules = children


def _parts_of(modules: Iterable[nn.Module]) -> list[nn.Module]:
    """All submodules, each once, also where several modules share it."""
    return list({id(part): part for module in modules for part in module.modules()}.values())


# ---------------------------------------------------------------------- parts by name


def unwrap(model: nn.Module) -> nn.Module:
    """The network inside the wrappers of ``torch.compile``, DataParallel and DistributedDataParallel, whose hooks fire
    reliably and whose names are its own; ``model`` itself where there is no such wrapper."""
    inner = getattr(model, "_orig_mod", None)
    if isinstance(model, (nn.DataParallel, nn.parallel.DistributedDataParallel)):
        inner = model.module
    return unwrap(inner) if isinstance(inner, nn.Module) else model


WRAPPER_LEVELS = ("module", "_orig_mod")
"""What wrappers put into the names of the modules inside them."""


def own_names(model: nn.Module, names: Iterable[str]) -> list[str]:
    """Names of modules as ``model`` has them, where they were written with other levels of wrappers (``module.``,
    ``_orig_mod.``) in them; unknown ones stay as they are."""
    known = {name for name, _ in model.named_modules(remove_duplicate=False)}
    plain = {_without_wrappers(name): name for name in known}
    found = []
    for name in names:
        path = name if name in known else path_and_call(name)[0]
        own = path if path in known else plain.get(_without_wrappers(path), path)
        found.append(own + name[len(path) :])
    return found


def _without_wrappers(name: str) -> str:
    return ".".join(part for part in name.split(".") if part not in WRAPPER_LEVELS)


def path_and_call(name: str) -> tuple[str, int | None]:
    """``relu#2`` -> ("relu", 2); without a call number (name, None)."""
    path, mark, number = name.rpartition("#")
    return (path, int(number)) if mark and number.isdecimal() and int(number) > 0 else (name, None)


def find_modules(
    model: nn.Module, stages: Sequence[str], modules: Mapping[str, nn.Module] | None = None
) -> dict[str, nn.Module]:
    """The module of each stage, from ``modules`` where given, else by module path in ``model``.

    ``PATH#2`` names the second call of the module at PATH. Raises CaptureError for no stage, a stage named twice, and
    an unknown stage (with the nearest names).
    """
    listed = isinstance(stages, Sequence) and not isinstance(stages, str)
    if not listed or not stages or not all(isinstance(name, str) for name in stages):
        raise CaptureError(f"stages is {shown(stages)}; expected a list of at least one module name")
    twice = sorted({name for name in stages if list(stages).count(name) > 1})
    if twice:
        raise CaptureError(f"stages named more than once: {', '.join(twice)}")
    known = dict(modules) if modules is not None else dict(model.named_modules())
    found = {}
    for name in stages:
        path = name if name in known else path_and_call(name)[0]
        if path not in known:
            try:  # a path through a module that is registered under two names
                known[path] = model.get_submodule(path) if modules is None else known[path]
            except (AttributeError, KeyError):
                names = [key for key in known if key]
                raise CaptureError(f"no stage {name!r} in the model; {nearest(name, names)}") from None
        found[name] = unwrap(known[path])
        if isinstance(found[name], torch.jit.ScriptModule):
            raise CaptureError(
                f"stage {name!r} is a TorchScript module, whose calls Python hooks do not see; "
                "capture the model it was scripted from"
            )
    return found


# ---------------------------------------------------------------------- what goes in and comes out


class Enough(BaseException):
    """Ends a forward pass from within a hook; no ``except Exception`` of a model may swallow it."""


def first_tensor(output: Any) -> Tensor | None:
    """The tensor a module's output stands for: itself, the value named ``out``, or the first one inside."""
    if isinstance(output, Tensor):
        return output
    if isinstance(output, Mapping):
        if isinstance(output.get("out"), Tensor):
            return output["out"]
        output = list(output.values())
    if isinstance(output, (list, tuple)):
        return next((tensor for item in output if (tensor := first_tensor(item)) is not None), None)
    return None


def as_parameters(x: Tensor, model: nn.Module) -> Tensor:
    """``x`` in the dtype that ``model`` computes with, so that a model in half precision takes float32 images.

    That is the dtype of its floating-point parameters; where these are of several, that of the first layer which the
    images reach, found by a forward pass of one of them. Integers stay as they are.
    """
    if not x.is_floating_point():
        return x
    dtypes = {parameter.dtype for parameter in model.parameters() if parameter.is_floating_point()}
    if len(dtypes) > 1 and len(x):
        return x.to(_dtype_of_first_layer(model, x[:1]))
    return x.to(dtypes.pop()) if len(dtypes) == 1 else x


def cast_images(images: Tensor, network: nn.Module) -> Tensor:
    """The images in the dtype of the network's parameters where these are all of one."""
    dtypes = {parameter.dtype for parameter in network.parameters() if parameter.is_floating_point()}
    return images.to(dtypes.pop()) if len(dtypes) == 1 and images.is_floating_point() else images


def _dtype_of_first_layer(model: nn.Module, image: Tensor) -> torch.dtype:
    """The dtype that the images must have: their own, where the model casts them before its first layer."""
    found = [image.dtype]

    def meet(layer: nn.Module, args: Any, kwargs: Any) -> None:
        given = first_tensor([args, kwargs])
        own = next(parameter.dtype for parameter in layer.parameters(recurse=False) if parameter.is_floating_point())
        if given is not None and given.is_floating_point() and given.dtype != own:
            found.append(own)
        raise Enough

    with in_evaluation(model), torch.no_grad():
        for layer in model.modules():
            own = [parameter for parameter in layer.parameters(recurse=False) if parameter.is_floating_point()]
            if own and not list(layer.children()):
                layer.register_forward_pre_hook(meet, with_kwargs=True)
        with contextlib.suppress(Enough, Exception):  # what the model itself raises comes again when it is really asked
            pass_images(model, image)
    return found[-1]
