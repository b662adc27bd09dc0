"""What a network itself returns, as the head of its last depth."""

from collections.abc import Mapping, Sequence

from lwexplain.capture.extract import Captured


def settle_own_output(captured: Mapping[str, Captured], names: Sequence[str]) -> tuple[list[str], list[str]]:
    """The classes with those that only the model's own output knows, and notes; logits that are none are removed.

    The output counts as logits where it has at least as many columns as there are classes. Where it has more than twice
    as many it may be an embedding, and counts if its largest column is mostly one of the classes on train.
    """
    last = captured["train"].stages[-1]
    count = len(names)
    widths = {part.logits[last].shape[1] for part in captured.values() if last in part.logits}
    reason = next((part.no_output for part in captured.values() if part.no_output), "")
    if not reason and len(widths) > 1:
        reason = f"it has {' and '.join(map(str, sorted(widths)))} columns in the splits"
    if not reason:
        (width,) = widths
        hits = float((captured["train"].logits[last].argmax(1) < count).mean())
        if width < count:
            reason = f"it has {width} columns for {count} classes"
        elif width > 2 * count and hits < 0.5:
            reason = (
                f"it has {width} columns for {count} classes, and the largest is that of a class for {hits:.0%} of the "
                "train images only, as in an embedding"
            )
        else:
            return [*names, *_names_of_others(names, width)], []
    for part in captured.values():
        part.logits.pop(last, None)
    return list(names), [f"the model's own output is not among the measurements: {reason}"]


def _names_of_others(names: Sequence[str], width: int) -> list[str]:
    """Names of the outputs that no class is named for."""
    numbers = range(len(names), width)
    plain = [str(number) for number in numbers]
    return plain if not set(plain) & set(names) else [f"output {number}" for number in numbers]
