"""Which calls of a watched forward pass are the stages of a network, by how it is built and not by its family.

Stages are passages (see ``image_path``), so that each depends on the one before and a cut there loses nothing. What is
a block is seen, too: a module most of whose weights lie where no passage leads, as behind a shortcut or in branches.
"""

from collections import Counter
from collections.abc import Iterator
from itertools import groupby, pairwise

from torch import nn

from lwexplain.models.image_path import Call, ImagePath

MOST = 64
"""More stages than these are too many to look at: the groups of blocks are taken instead, where there are some."""

FEW = 5
"""With fewer than these, plain groups of layers are taken apart."""


def choose_stages(path: ImagePath) -> list[str]:
    """Names of the stages, in the order in which they run; empty where there are none.

    Blocks are stages, and so is what lies before the first one where it is more than one layer or not linear. A network
    without blocks has a stage for each group of layers that ends in an activation. What follows the pooling of all
    positions belongs to the head. Networks in which several values pass side by side all the way are cut in the
    outermost list of modules of one kind.
    """
    found = _Choice(path).stages()
    if len(found) < 3:
        repeated = _outermost_repeated(path)
        found = repeated if len(repeated) > len(found) else found
    return [call.name for call in found]


class _Choice:
    """The stages among the passages."""

    def __init__(self, path: ImagePath) -> None:
        self.path = path
        self.logits = frozenset() if path.logits is None else frozenset({path.logits})
        self.pooled_at = path.pooled_at
        self.all_linear = not path.nonlinear_between(0, len(path.operations))
        weighted = [call.start for call in path.root.within() if not call.calls and _has_weights(call.module)]
        self.classifier_at = max(weighted, default=0)  # where the last layer with weights begins
        calls = [call for call in path.root.within() if call.is_passage and _has_layers(call)]
        closed = [call for call in calls if not _is_plain(call) and _is_closed(call)]
        active = [call for call in closed if path.nonlinear_between(call.start, call.end)]
        kinds = {type(call.module) for call in active or closed}
        parts = {
            type(part.module)
            for call in path.root.within()
            if type(call.module) in kinds
            for part in call.within()
            if type(part.module) is not type(call.module)
        }
        self.blocks = kinds - parts  # what is also a part of blocks is no block: squeeze and excitation, say
        self.kinds = Counter(type(call.module) for call in calls)

    def stages(self) -> list[Call]:
        """Blocks rather than groups, unless these are too many; single layers rather than few groups of them."""
        found = self._at_level(0, take_apart=False)
        for level in range(1, 12):
            deeper = self._at_level(level, take_apart=False)
            if len(deeper) > MOST and len(found) > 1:
                break
            found = deeper
        if len(found) < FEW:
            apart = self._at_level(12, take_apart=True)
            found = apart if len(apart) > len(found) else found
        return found

    def _at_level(self, level: int, *, take_apart: bool) -> list[Call]:
        units = [unit for call in _passages_in(self.path.root) for unit in self._units(call, level, take_apart)]
        return self._stages_among(self._before_the_head(units))

    def _units(self, call: Call, level: int, take_apart: bool) -> Iterator[Call]:
        """The call itself, or those inside it where it is a group of blocks or of groups."""
        inside = _passages_in(call)
        alone = type(call.module) is nn.Sequential or self.kinds[type(call.module)] == 1
        opened = self._is_group(call) or (take_apart and alone)
        if level == 0 or not inside or type(call.module) in self.blocks or _is_closed(call) or not opened:
            yield call
            return
        for child in inside:
            yield from self._units(child, level - 1, take_apart)

    def _is_group(self, call: Call) -> bool:
        """Whether blocks are inside, or several plain groups of layers of one kind."""
        inside = [child for child in call.within() if child.is_passage and _has_layers(child)]
        kinds = Counter(type(child.module) for child in inside)
        return any(kind in self.blocks or number > 1 for kind, number in kinds.items()) or any(
            not _is_plain(child) and self._is_group(child) for child in inside
        )

    def _before_the_head(self, units: list[Call]) -> list[Call]:
        """Units whose output is that of an image a row, still with its positions where the network has any."""
        fitting = [
            unit
            for unit in units
            if unit.leaving != self.logits and unit.end <= self.pooled_at and _is_row_of_images(unit.shape)
        ]
        fitting = [unit for unit in fitting if len(unit.shape) > 2 or unit.end <= self.classifier_at]
        if any(len(unit.shape) > 2 for unit in fitting):
            fitting = [unit for unit in fitting if len(unit.shape) > 2]
        changed = [unit for unit in fitting if unit.leaving != unit.entering and 0 not in unit.leaving]
        return [unit for place, unit in enumerate(changed) if unit.leaving not in [u.leaving for u in changed[:place]]]

    def _stages_among(self, units: list[Call]) -> list[Call]:
        """The units that are stages. A row of single layers is one as a whole, or the end of the group before it."""
        if sum(_has_layers(unit) for unit in units) < 2:
            return self._groups_of_layers(units)
        stages: list[Call] = []
        for is_whole, row in groupby(units, key=_has_layers):
            members = list(row)
            if is_whole:
                stages += [unit for unit in members if self._is_stage([unit], first=not stages and unit is members[0])]
            elif any(_has_weights(unit.module) for unit in members) or not stages:
                stages += [members[-1]] if self._is_stage(members, first=not stages) else []
            elif self._is_stage(members, first=False) and type(stages[-1].module) not in self.blocks:
                stages[-1] = members[-1]  # the normalisation and activation of the layers before
        return stages

    def _is_stage(self, row: list[Call], *, first: bool) -> bool:
        """Whether a row of calls is more than a linear map; at the beginning, whether it is more than one layer."""
        is_active = self.all_linear or self.path.nonlinear_between(row[0].start, row[-1].end)
        if type(row[0].module) in self.blocks or is_active:
            return True
        return first and sum(_weighted_layers(call.module) for call in row) > 1

    def _groups_of_layers(self, units: list[Call]) -> list[Call]:
        """A stage from each layer with weights to the next, named by its activation; linear ones go to the next."""
        starts = [place for place, unit in enumerate(units) if _has_weights(unit.module)]
        stages: list[Call] = []
        begin = units[starts[0]].start if starts else 0
        for place, following in pairwise([*starts, None]):
            members = units[place:following]
            end = self._end_of(members) if following is None else units[following].start
            if not self.all_linear and not self.path.nonlinear_between(begin, end):
                continue
            active = [unit for unit in members if self.path.nonlinear_between(unit.start, unit.end)]
            stages.append(active[-1] if active else members[-1])
            begin = end
        return stages

    def _end_of(self, members: list[Call]) -> int:
        """The end of the last row of layers: up to the pooling, or else to the next call of a layer."""
        later = [call.start for call in self.path.root.within() if call.start >= members[-1].end and not call.calls]
        return min([self.pooled_at, *later])


def _passages_in(call: Call) -> list[Call]:
    """The outermost passages inside a call, in order."""
    found = []
    for child in call.calls:
        found += [child] if child.is_passage else _passages_in(child)
    return found


def _is_closed(call: Call) -> bool:
    """Whether most of the weights of its parts lie where no passage inside leads."""
    parts = [part for _, part in call.module.named_children()]
    reached = [child.module for child in _passages_in(call)]
    return 2 * _weights_of(reached) < _weights_of(parts)


def _weights_of(modules: list[nn.Module]) -> int:
    return sum(p.numel() for p in {id(p): p for module in modules for p in module.parameters()}.values())


def _has_layers(call: Call) -> bool:
    """Whether it is a module of several parts with weights, not a single layer."""
    return bool(call.calls) and any(True for child in call.module.children() for _ in child.parameters())


def _is_plain(call: Call) -> bool:
    return type(call.module) is nn.Sequential


def _has_weights(module: nn.Module) -> bool:
    return any(parameter.ndim > 1 for parameter in module.parameters())


def _weighted_layers(module: nn.Module) -> int:
    """How many single layers with weights are in a module; tables of positions are none."""
    single = [part for part in module.modules() if not part._modules and not isinstance(part, nn.Embedding)]
    return sum(any(True for _ in part.parameters()) for part in single)


def _is_row_of_images(shape: tuple[int, ...]) -> bool:
    return len(shape) in (2, 3, 4) and (shape[0] == 1 or (len(shape) == 3 and shape[1] == 1))


def _outermost_repeated(path: ImagePath) -> list[Call]:
    """The members of the outermost list of modules of one kind that run one after another, each on what the one before
    gave; of a member that is a list itself, its last call. Modules under names of their own count as a list, too."""
    calls = [call for call in path.root.within() if call.outputs and _is_row_of_images(call.shape)]
    names = {call.name: call for call in calls}
    for prefix, module in path.root.module.named_modules():
        is_list = isinstance(module, (nn.ModuleList, nn.ModuleDict, nn.Sequential))
        if len(module._modules) > 1:
            members = []
            for key, _ in module.named_children():
                own = f"{prefix}.{key}" if prefix else key
                inside = [call for name, call in names.items() if name == own or name.startswith(f"{own}.")]
                outer = [call for call in inside if call.parent not in inside and "#" not in call.name]
                if outer and (is_list or any(map(_has_layers, outer))):
                    members.append(max(outer, key=lambda call: call.end))
            members.sort(key=lambda call: call.end)
            kinds = Counter(type(call.module) for call in members)
            chained = all(_depends(path, after, before) for before, after in pairwise(members))
            side_by_side = 2 * sum(call.is_passage for call in members) < len(members)
            if len(members) > 1 and kinds.most_common(1)[0][1] > 1 and chained and side_by_side:
                return [call for call in members if path.logits not in call.outputs]
    return []


def _depends(path: ImagePath, after: Call, before: Call) -> bool:
    """Whether the output of one call is made from that of an earlier one."""
    open_places, seen = list(after.outputs), set[int]()
    while open_places:
        place = open_places.pop()
        if place in before.outputs:
            return True
        if place not in seen and place > min(before.outputs):
            seen.add(place)
            open_places += path.operations[place].reads
    return False
