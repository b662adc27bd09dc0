"""Where the images, the labels and the index are in a batch of any common form."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields, is_dataclass
from typing import Any

from torch import Tensor

from lwexplain.arguments import shown, user_code, with_article
from lwexplain.data.batch_form import Pick
from lwexplain.errors import CaptureError

IMAGES = ("pixel_values", "images", "image", "img", "inputs", "input", "x")
LABELS = ("labels", "label", "targets", "target", "y")
INDEX = ("index",)

BATCH = (
    "a batch must be (images, labels) or (images, labels, index), or hold them under names such as pixel_values or "
    "images and labels"
)
OR_PICK = "or pass batch=, a function from a batch to (images, labels)"


def parts_of(item: Any, form: str, pick: Pick | None = None) -> list[Any]:
    """[images], [images, labels] or [images, labels, index] as they stand in a batch; raises CaptureError.

    They are the parts of a tuple or list, or stand under usual names in a mapping or an object (a dataclass, a named
    tuple). A list of single samples, each an (image, label) or a mapping, becomes lists of images and of labels.
    ``pick`` finds them in any other form. ``form`` begins the text of an error.
    """
    if pick is not None:
        with user_code("the function given as batch="):
            picked = pick(item)
        if not isinstance(picked, (tuple, list)) and not isinstance(picked, Tensor):
            raise CaptureError(f"the function given as batch= returned {shown(picked)}; expected (images, labels)")
        return _of_sequence(picked, form) if isinstance(picked, (tuple, list)) else [picked]
    if isinstance(item, Tensor):
        return [item]
    named = _named(item, form)
    if named is not None:
        return named
    if isinstance(item, (tuple, list)):
        if _is_list_of_samples(item):
            samples = [parts_of(sample, form) for sample in item]
            if len({len(sample) for sample in samples}) == 1:
                return [list(part) for part in zip(*samples, strict=True)]
        return _of_sequence(item, form)
    raise CaptureError(f"{form}, found {shown(item)}; wrap the loader so that it yields tuples, {OR_PICK}")


def _of_sequence(item: Sequence[Any], form: str) -> list[Any]:
    if not 1 <= len(item) <= 3:
        raise CaptureError(
            f"{form}, found {len(item)} items; wrap the loader so that it yields two or three, {OR_PICK}"
        )
    first = item[0]
    inside = None if isinstance(first, (Tensor, tuple, list)) else _named(first, form)
    return [first if inside is None else inside[0], *item[1:]]


def _named(item: Any, form: str) -> list[Any] | None:
    """What stands under usual names in a mapping or an object; None for anything else, and for a tuple without them."""
    get, names = _lookup(item)
    if get is None:
        return None
    images = next((found for name in IMAGES if (found := get(name)) is not None), None)
    if images is None:
        if isinstance(item, tuple):  # a named tuple with names of its own
            return None
        found = with_article(type(item).__name__) if names is None else shown(dict.fromkeys(names))
        raise CaptureError(f"{form}, found {found}; name the images {' or '.join(IMAGES[:2])}, {OR_PICK}")
    labels = next((found for name in LABELS if (found := get(name)) is not None), None)
    if labels is None and isinstance(item, tuple):
        return None
    index = next((found for name in INDEX if (found := get(name)) is not None), None)
    if labels is None:
        return [images]
    return [images, labels] if index is None else [images, labels, index]


def _lookup(item: Any) -> tuple[Callable[[str], Any] | None, list[str] | None]:
    """How to look up a name in a mapping or an object with named fields, and its names; None where it has no names."""
    if isinstance(item, Mapping):
        return item.get, [str(key) for key in list(item)[:20]]
    if callable(getattr(item, "keys", None)) and hasattr(item, "__getitem__") and not isinstance(item, type):
        keys = list(item.keys())
        return lambda name: item[name] if name in keys else None, [str(key) for key in keys[:20]]
    if is_dataclass(item) and not isinstance(item, type):
        return lambda name: getattr(item, name, None), [field.name for field in fields(item)]
    if isinstance(item, tuple) and hasattr(item, "_fields"):
        held = dict(zip(item._fields, item, strict=True))
        return held.get, list(held)
    if not isinstance(item, (tuple, list, str, bytes, type(None))) and any(_has(item, name) for name in IMAGES):
        return lambda name: getattr(item, name, None), None
    return None, None


def _has(item: Any, name: str) -> bool:
    try:
        return getattr(item, name, None) is not None
    except Exception:  # an object may fail at anything that is asked of it
        return False


def _is_list_of_samples(item: Sequence[Any]) -> bool:
    """Whether a batch is a list of (image, label) or mappings, as a loader gives that puts nothing together."""
    if not item or hasattr(item, "_fields"):
        return False
    if all(isinstance(sample, Mapping) for sample in item):
        return True
    pairs = [sample for sample in item if isinstance(sample, (tuple, list)) and len(sample) in (2, 3)]
    return len(pairs) == len(item) and all(is_one_label(sample[1]) for sample in pairs)


def is_one_image(value: Any) -> bool:
    """Whether a value is (C, H, W) or a picture of Pillow, not a batch of them."""
    shape = getattr(value, "shape", None)
    return len(shape) == 3 if isinstance(shape, tuple) else hasattr(value, "__array_interface__")


def is_one_label(value: Any) -> bool:
    """Whether a value is a single number, not one for each image of a batch."""
    shape = getattr(value, "shape", None)
    return isinstance(value, int) if shape is None else tuple(shape) == ()
