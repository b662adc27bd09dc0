"""Any nn.Module as a StagedModel: cut at named submodules by symbolic tracing."""

import operator
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.utils._pytree import tree_leaves

from lwexplain.errors import ModelError
from lwexplain.models.calling import call_with_images
from lwexplain.models.modules import in_evaluation, path_and_call, undisturbed
from lwexplain.models.ordering import in_channel_order
from lwexplain.models.outputs import logits_in
from lwexplain.models.staged import StagedModel, State, as_tuple
from lwexplain.models.tracing import TracedForward, trace_forward
from lwexplain.registry import nearest

CHECKED_IMAGES = 2


def stage_by_names(
    model: nn.Module, names: Sequence[str], input_shape: Sequence[int], num_classes: int, *, tail: bool = True
) -> StagedModel:
    """Cut ``model`` after each named submodule, in the order in which they run.

    ``PATH#2`` names the second call of the module at PATH. What follows the last named module becomes the head of the
    full depth; of several outputs the logits count. The stages share the model's own modules, keep to its code for
    training and for evaluation, and give their features as (N, C, H, W) or (N, T, D), also where the model itself has
    the channels last. Without ``tail`` what follows the last named module is left out, and may use earlier values too.

    Raises ModelError for an unknown name, a name out of order, a module that runs twice, or a model whose forward
    cannot be traced between the named modules. A model whose code for training cannot be cut is for evaluation only.
    """
    _check_names(model, names)
    images = torch.randn(CHECKED_IMAGES, *input_shape, generator=torch.Generator().manual_seed(0))
    with undisturbed(model):
        evaluation = _Cuts(model, names, images, training=False, tail=tail)
        training, reason = _cuts_for_training(model, names, images, evaluation, tail=tail)
        cuts = [Cut(reason) for _ in evaluation.parts]
        for place, cut in enumerate(cuts):
            cut.program = evaluation.program(place, cut.graph_module)
            cut.training_program = training.program(place, cut.graph_module) if training else None
    named = dict(zip(names, cuts, strict=False))
    rest: nn.Module | None = cuts[-1] if tail else None
    if tail and not evaluation.parts[-1] and not (training and training.parts[-1]):
        rest = nn.Identity()
    staged = StagedModel(named, input_shape, num_classes, tail=rest)
    own = {id(part) for part in model.modules()}
    for part in staged.modules():
        if id(part) not in own:
            part.training = model.training
    if tail:
        _check_same(model, staged, images)
    return in_channel_order(staged)


class Cut(nn.Module):
    """One stage of a traced model: takes and returns the values that cross its two boundaries."""

    def __init__(self, reason: str) -> None:
        super().__init__()
        self.graph_module = nn.Module()
        self.program: Callable[..., State] | None = None
        self.training_program: Callable[..., State] | None = None
        self.reason = reason

    def forward(self, state: State) -> State:
        program = self.training_program if self.training else self.program
        if program is None:
            raise ModelError(f"this network cannot be trained stage by stage, only be evaluated: {self.reason}")
        return program(self.graph_module, *as_tuple(state))


class _Cuts:
    """A traced forward in as many parts as there are stages, and, with ``tail``, what follows them."""

    def __init__(
        self, model: nn.Module, names: Sequence[str], images: Tensor, *, training: bool, tail: bool = True
    ) -> None:
        traced = trace_forward(model, [path_and_call(name)[0] for name in names], training=training)
        self.model, image = model, traced.image
        returned = _logits_node(model, traced, images)
        nodes = [image, *traced.nodes_of(returned)]
        ends = [_call_of(model, nodes, name) for name in names]
        if ends != sorted(ends):
            order = [name for _, name in sorted(zip(ends, names, strict=True))]
            raise ModelError(f"the stages run in another order than named; name them as {order}")
        starts = [1, *(end + 1 for end in ends)]
        self.parts = [nodes[start:end] for start, end in zip(starts, [*starts[1:], len(nodes)], strict=True)]
        leaving = [_crossing(nodes, end, returned) for end in ends]
        if not tail:
            self.parts = self.parts[:-1]
            self.entering, self.leaving = [[image], *leaving[:-1]], [*leaving[:-1], [nodes[ends[-1]]]]
            return
        if len(leaving[-1]) > 1:
            raise ModelError(
                f"values computed before {names[-1]!r} are used after it ({', '.join(map(str, leaving[-1][1:]))}); "
                "name a later module as the last stage"
            )
        self.entering, self.leaving = [[image], *leaving], [*leaving, [returned]]

    @property
    def crossings(self) -> list[int]:
        """How many values cross the end of each part."""
        return [len(values) for values in self.leaving]

    def program(self, place: int, container: nn.Module) -> Callable[..., State]:
        """The function (container, *values that enter) -> values that leave, of one part; what it uses of the model
        is put into the container."""
        graph = fx.Graph()
        made: dict[fx.Node, fx.Node] = {node: graph.placeholder(node.name) for node in self.entering[place]}

        def lookup(node: fx.Node) -> fx.Node:
            if node not in made:
                if node.op == "get_attr":
                    made[node] = graph.node_copy(node)
                elif _reads_batch_size(node):
                    made[node] = graph.call_method("size", (made[self.entering[place][0]], 0))
                else:
                    raise ModelError(f"{node.name!r} is used after the stage that makes it; the model cannot be cut")
            return made[node]

        for node in self.parts[place]:
            made[node] = graph.node_copy(node, lookup)
        results = tuple(lookup(node) for node in self.leaving[place])
        graph.output(results[0] if len(results) == 1 else results)
        graph.lint()
        for node in graph.nodes:
            if node.op in ("call_module", "get_attr"):
                _share(self.model, container, str(node.target))
        program: Callable[..., State] = type(fx.GraphModule(self.model, graph)).forward
        return program


def _check_names(model: nn.Module, names: Sequence[str]) -> None:
    if isinstance(names, str) or not isinstance(names, Sequence) or not all(isinstance(name, str) for name in names):
        raise ModelError(f"stages is {names!r}; expected a list of module names")
    if not names:
        raise ModelError("give at least one module name to cut the model at")
    known = [name for name, _ in model.named_modules(remove_duplicate=False) if name]
    for name in names:
        path = path_and_call(name)[0]
        if path not in known:
            raise ModelError(f"{type(model).__name__} has no module {name!r}; {nearest(name, known)}")
        for other in names:
            if path.startswith(f"{path_and_call(other)[0]}."):
                raise ModelError(f"stage {name!r} lies inside stage {other!r}; name only one of them")


def _cuts_for_training(
    model: nn.Module, names: Sequence[str], images: Tensor, evaluation: _Cuts, *, tail: bool
) -> tuple[_Cuts | None, str]:
    """The cuts in training mode, or None and why there are none."""
    try:
        cuts = _Cuts(model, names, images, training=True, tail=tail)
    except ModelError as error:
        return None, str(error)
    if cuts.crossings != evaluation.crossings:
        return None, "more or fewer values pass from stage to stage in training than in evaluation"
    return cuts, ""


def _call_of(model: nn.Module, nodes: list[fx.Node], name: str) -> int:
    path, call = path_and_call(name)
    module = model.get_submodule(path)
    calls = [
        index
        for index, node in enumerate(nodes)
        if node.op == "call_module" and model.get_submodule(str(node.target)) is module
    ]
    if call is None and len(calls) != 1:
        raise ModelError(f"module {name!r} runs {len(calls)} times in a forward; a stage must run exactly once")
    if call is not None and call > len(calls):
        raise ModelError(f"module {path!r} runs only {len(calls)} times in a forward; there is no {name!r}")
    return calls[(call or 1) - 1]


def _logits_node(model: nn.Module, traced: TracedForward, images: Tensor) -> fx.Node:
    """The node of the logits; of several outputs, the one that ``logits_in`` picks out of what the model returns."""
    outputs = traced.outputs
    place = 0
    if len(outputs) != 1:
        returned = _run(model, images)
        leaves = tree_leaves(returned)
        logits = logits_in(returned, len(images))
        place = next(place for place, leaf in enumerate(leaves) if leaf is logits)
        if len(leaves) != len(outputs):
            raise ModelError(f"{type(model).__name__} returns another number of values when it is traced")
    node = outputs[place]
    if not isinstance(node, fx.Node):
        raise ModelError(f"{type(model).__name__} must map one tensor to one tensor of logits; it returns {node!r}")
    return node


def _run(model: nn.Module, images: Tensor) -> Any:
    """What the model makes of some images."""
    place = next((parameter.device for parameter in model.parameters()), images.device)
    with torch.no_grad():
        try:
            return call_with_images(model, images.to(place))
        except (RuntimeError, ValueError, TypeError, IndexError, AssertionError) as error:
            raise ModelError(
                f"{type(model).__name__} cannot take images of shape {tuple(images.shape[1:])}: {error}"
            ) from None


def _check_same(model: nn.Module, staged: StagedModel, images: Tensor) -> None:
    """Raise ModelError where the stages one after another do not compute what the model does."""
    with in_evaluation(model, staged):
        torch.manual_seed(0)
        try:
            wanted = _run(model, images)
        except ModelError:
            return  # said where the shapes of the stages are asked for
        torch.manual_seed(0)
        found = _run(staged, images)
    if not isinstance(wanted, Tensor):
        wanted = logits_in(wanted, len(images))
    if found.shape != wanted.shape or not torch.allclose(found, wanted, rtol=1e-3, atol=1e-5, equal_nan=True):
        raise ModelError(
            f"the stages of {type(model).__name__} one after another do not compute what the network does: its forward "
            "depends on more than a trace can follow; name modules of one container, or others"
        )


def _crossing(nodes: list[fx.Node], end: int, returned: fx.Node) -> list[fx.Node]:
    """The values made up to node ``end`` that later nodes use; the stage's own output first."""
    later = set(nodes[end + 1 :])
    others = [node for node in nodes[:end] if node is returned or any(user in later for user in node.users)]
    return [nodes[end], *(node for node in others if node.op != "get_attr" and not _reads_batch_size(node))]


def _reads_batch_size(node: fx.Node) -> bool:
    """Whether a node is x.size(0), x.shape[0] or x.size()[0]: the same whatever x is, for samples come first."""
    if node.op == "call_method" and node.target == "size":
        return bool(node.args[1:] == (0,) or node.kwargs == {"dim": 0})
    if node.op != "call_function" or node.target is not operator.getitem or node.args[1] != 0:
        return False
    sizes = node.args[0]
    if not isinstance(sizes, fx.Node):
        return False
    whole = sizes.op == "call_method" and sizes.target == "size" and len(sizes.args) == 1 and not sizes.kwargs
    return bool(whole or (sizes.op == "call_function" and sizes.target is getattr and sizes.args[1] == "shape"))


def _share(model: nn.Module, container: nn.Module, path: str) -> None:
    """Put the model's own module, parameter or tensor at ``path`` into the container, under the same path."""
    *parents, name = path.split(".")
    source: Any = model
    for parent in parents:
        source = getattr(source, parent)
        if not hasattr(container, parent):
            container.add_module(parent, nn.Module())
        container = getattr(container, parent)
    value = getattr(source, name)
    if isinstance(value, Tensor) and not isinstance(value, nn.Parameter):
        container.register_buffer(name, value)
    else:
        setattr(container, name, value)
