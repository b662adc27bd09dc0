"""Stratified splits and subsets: a function of the labels and the seed, and of nothing else."""

from collections.abc import Sequence

import torch
from torch import Tensor

from lwexplain.data.seeding import keyed_generator
from lwexplain.errors import DataError


def stratified_split(
    labels: Tensor, fraction: float, seed: int, *, part: str = "val", classes: Sequence[str] | None = None
) -> tuple[Tensor, Tensor]:
    """Indices ``(kept, held_out)``, int64 and ascending; ``held_out`` is ``fraction`` of ``labels`` (N,).

    Every class is shared out in proportion (largest remainder), with at least one sample on either side;
    where that needs more than ``fraction``, more is held out. ``part`` names the held-out part in errors and
    keeps splits with the same seed apart. Raises DataError for a class of fewer than two samples.
    """
    present, counts = _count(labels)
    for label, count in zip(present, counts, strict=True):
        if count < 2:
            raise DataError(
                f"class {_name(label, classes)} has {count} image, too few to hold some out as {part}; "
                "it needs at least 2 (3 where val and test are both held out)"
            )
    room = [count - 1 for count in counts]
    total = min(max(round(fraction * len(labels)), len(counts)), sum(room))
    held_out = _draw(labels, present, allocate(counts, total, room), keyed_generator("split", part, seed))
    kept = torch.ones(len(labels), dtype=torch.bool)
    kept[held_out] = False
    return kept.nonzero().flatten(), held_out


def stratified_subset(labels: Tensor, size: int, seed: int, *, classes: Sequence[str] | None = None) -> Tensor:
    """Indices int64 (size,), ascending, of a subset of ``labels`` (N,) with the same share of every class.

    Raises DataError where ``size`` is more than there is, or too small to hold one sample of every class.
    """
    present, counts = _count(labels)
    if size > len(labels):
        raise DataError(f"data.train_size={size} is more than the {len(labels)} training images there are")
    if size < len(counts):
        raise DataError(
            f"data.train_size={size} is too small for one image of each of the {len(counts)} classes; "
            f"class {_name(present[size], classes)} would have none"
        )
    return _draw(labels, present, allocate(counts, size, counts), keyed_generator("subset", seed))


def allocate(counts: Sequence[int], total: int, room: Sequence[int]) -> list[int]:
    """Share ``total`` among classes in proportion to ``counts`` by largest remainder, each in [1, room].

    Ties go to the earlier class. Needs ``len(counts) <= total <= sum(room)``.
    """
    quotas = [count * total for count in counts]  # in units of 1/N, so that remainders are exact
    unit = sum(counts)
    shares = [min(max(quota // unit, 1), most) for quota, most in zip(quotas, room, strict=True)]
    while sum(shares) < total:
        open_ = [k for k in range(len(counts)) if shares[k] < room[k]]
        shares[max(open_, key=lambda k: (quotas[k] - shares[k] * unit, -k))] += 1
    while sum(shares) > total:
        open_ = [k for k in range(len(counts)) if shares[k] > 1]
        shares[min(open_, key=lambda k: (quotas[k] - shares[k] * unit, -k))] -= 1
    return shares


def _count(labels: Tensor) -> tuple[list[int], list[int]]:
    if len(labels) == 0:
        raise DataError("there are no images to split")
    present, counts = torch.unique(labels, return_counts=True)
    return present.tolist(), counts.tolist()


def _draw(labels: Tensor, present: list[int], shares: list[int], generator: torch.Generator) -> Tensor:
    drawn = []
    for label, share in zip(present, shares, strict=True):
        members = (labels == label).nonzero().flatten()
        drawn.append(members[torch.randperm(len(members), generator=generator)[:share]])
    return torch.cat(drawn).sort().values


def _name(label: int, classes: Sequence[str] | None) -> str:
    return repr(classes[label]) if classes is not None else str(label)
