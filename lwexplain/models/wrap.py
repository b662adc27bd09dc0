"""Any nn.Module as a StagedModel: cut at named submodules by symbolic tracing."""

from collections.abc import Sequence

from torch import Tensor, fx, nn

from lwexplain.errors import ModelError
from lwexplain.models.staged import StagedModel
from lwexplain.registry import nearest


class _BoundaryTracer(fx.Tracer):
    """Traces into a module only where a requested stage lies inside it; everything else stays one opaque call,
    so that its control flow and its training mode are untouched."""

    def __init__(self, stages: Sequence[str]) -> None:
        super().__init__()
        self.stages = stages

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return not any(stage.startswith(f"{module_qualified_name}.") for stage in self.stages)


class _Cut(nn.Module):
    """One stage of a traced model: takes and returns the values that cross its two boundaries."""

    def __init__(self, graph_module: fx.GraphModule) -> None:
        super().__init__()
        self.graph_module = graph_module

    def forward(self, state: Tensor | tuple[Tensor, ...]) -> Tensor | tuple[Tensor, ...]:
        return self.graph_module(*state) if isinstance(state, tuple) else self.graph_module(state)


def stage_by_names(model: nn.Module, names: Sequence[str], input_shape: Sequence[int], num_classes: int) -> StagedModel:
    """Cut ``model`` after each named submodule, in the order in which they run.

    What follows the last named module becomes the head of the full depth. The stages share the model's own
    modules. Raises ModelError for an unknown name, a name out of order, a module that runs twice, or a model whose
    forward cannot be traced between the named modules.
    """
    known = [name for name, _ in model.named_modules() if name]
    if isinstance(names, str) or not isinstance(names, Sequence) or not all(isinstance(name, str) for name in names):
        raise ModelError(f"stages is {names!r}; expected a list of module names")
    if not names:
        raise ModelError("give at least one module name to cut the model at")
    for name in names:
        if name not in known:
            raise ModelError(f"{type(model).__name__} has no module {name!r}; {nearest(name, known)}")
        for other in names:
            if name.startswith(f"{other}."):
                raise ModelError(f"stage {name!r} lies inside stage {other!r}; name only one of them")
    try:
        graph = _BoundaryTracer(names).trace(model)
    except Exception as error:
        raise ModelError(
            f"the forward of {type(model).__name__} cannot be traced between the stages ({error}); "
            "name modules of one container (lw.analyze_model captures features without a cut)"
        ) from None
    nodes = [node for node in graph.nodes if node.op not in ("placeholder", "output")]
    ends = [_only_call(nodes, name) for name in names]
    if ends != sorted(ends):
        order = [name for _, name in sorted(zip(ends, names, strict=True))]
        raise ModelError(f"the stages run in another order than named; name them as {order}")
    placeholders = [node for node in graph.nodes if node.op == "placeholder"]
    output = next(node for node in graph.nodes if node.op == "output")
    returned = output.args[0]
    if len([node for node in placeholders if node.users]) != 1 or not isinstance(returned, fx.Node):
        raise ModelError(f"{type(model).__name__} must map one tensor to one tensor of logits")

    entering: list[fx.Node] = [next(node for node in placeholders if node.users)]
    stages: dict[str, nn.Module] = {}
    start = 0
    for name, end in zip(names, ends, strict=True):
        leaving = _crossing(nodes, end, returned)
        stages[name] = _cut(model, nodes[start : end + 1], entering, leaving)
        entering, start = leaving, end + 1
    rest = nodes[start:]
    tail = _cut(model, rest, entering, [returned]) if rest else nn.Identity()
    if len(entering) > 1:
        raise ModelError(
            f"values computed before {names[-1]!r} are used after it ({', '.join(map(str, entering[1:]))}); "
            "name a later module as the last stage"
        )
    return StagedModel(stages, input_shape, num_classes, tail=tail)


def _only_call(nodes: list[fx.Node], name: str) -> int:
    calls = [index for index, node in enumerate(nodes) if node.op == "call_module" and node.target == name]
    if len(calls) != 1:
        raise ModelError(f"module {name!r} runs {len(calls)} times in a forward; a stage must run exactly once")
    return calls[0]


def _crossing(nodes: list[fx.Node], end: int, returned: fx.Node) -> list[fx.Node]:
    """The values made up to node ``end`` that later nodes use; the stage's own output first."""
    later = set(nodes[end + 1 :])
    first = nodes[end]
    others = [node for node in nodes[:end] if node is returned or any(user in later for user in node.users)]
    return [first, *(node for node in others if node.op != "get_attr")]


def _cut(model: nn.Module, nodes: list[fx.Node], entering: list[fx.Node], leaving: list[fx.Node]) -> _Cut:
    graph = fx.Graph()
    made: dict[fx.Node, fx.Node] = {node: graph.placeholder(node.name) for node in entering}

    def lookup(node: fx.Node) -> fx.Node:
        if node not in made and node.op == "get_attr":
            made[node] = graph.node_copy(node)
        if node not in made:
            raise ModelError(f"the model's input is used after the first stage (at {node.name!r}); it cannot be cut")
        return made[node]

    for node in nodes:
        made[node] = graph.node_copy(node, lookup)
    results = tuple(lookup(node) for node in leaving)
    graph.output(results[0] if len(results) == 1 else results)
    graph.lint()
    return _Cut(fx.GraphModule(model, graph))
