"""Image galleries and attribution grids as pieces of HTML, for the app, the report and notebooks alike.

The pieces are self-contained: images are data URIs, colours are inline, foreign text is escaped.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from lwexplain.errors import RunError
from lwexplain.results import AttributionSet
from lwexplain.text import escape_html
from lwexplain.views.embedding import class_name
from lwexplain.views.pictures import data_uri, hatched, overlay

GOOD, BAD = "#00694c", "#b3261e"


@dataclass(frozen=True)
class Shown:
    """One image of a gallery: its sample number, its class and, where known, the predicted one."""

    sample: int
    image: np.ndarray
    label: str
    predicted: str | None = None


def gallery_html(images: Sequence[Shown], side: int = 76) -> str:
    """Images in rows that wrap; true and predicted class below, wrong ones framed and crossed."""
    cells = []
    for item in images:
        wrong = item.predicted is not None and item.predicted != item.label
        colour = BAD if wrong else "#c3cad3" if item.predicted is None else GOOD
        second = ""
        if item.predicted is not None:
            mark = "✗" if wrong else "✓"
            second = f'<br><span style="color:{colour}">{mark} {_short(item.predicted)}</span>'
        said = f"sample {item.sample}, class {item.label}" + (f", predicted {item.predicted}" if item.predicted else "")
        cells.append(
            f'<figure style="margin:0;width:{side + 6}px" title="{escape_html(said)}">'
            f'<img src="{data_uri(item.image, side)}" alt="{escape_html(said)}" width="{side}" height="{side}" '
            f'style="object-fit:contain;border:2px solid {colour};border-radius:4px;background:#f4f5f7;'
            'image-rendering:pixelated">'
            f'<figcaption style="font-size:12px;line-height:1.3;overflow-wrap:anywhere">{_short(item.label)}{second}'
            "</figcaption></figure>"
        )
    return f'<div class="gallery" style="display:flex;flex-wrap:wrap;gap:10px">{"".join(cells)}</div>'


def attribution_grid_html(
    item: AttributionSet,
    images: np.ndarray,
    labels: np.ndarray,
    classes: Sequence[str],
    *,
    rows: Sequence[int] | None = None,
    side: int = 76,
) -> str:
    """Images x stages: the heat map over each image and the class it explains; what is not valid, a stage or a single
    map, is hatched.

    ``images`` is uint8 ``(M, H, W, C)``, ``labels`` ``(M,)``; ``rows`` chooses among the M images. Raises
    RunError where the parts do not fit together.
    """
    _check(item, images, labels)
    chosen = range(len(images)) if rows is None else rows
    head = ['<th style="text-align:left">image</th>']
    for stage, valid, note, of_images in zip(item.stages, item.valid, item.notes, item.image_notes, strict=True):
        badge, colour = (valid_images(of_images), GOOD) if valid else ("invalid", BAD)
        head.append(
            f'<th title="{escape_html(note)}" style="font-weight:600;vertical-align:bottom">{_short(stage, 16)}'
            f'<br><span style="font-size:11px;font-weight:500;color:white;background:{colour};padding:0 6px;'
            f'border-radius:8px">{badge}</span></th>'
        )
    body = []
    for m in chosen:
        name = class_name(classes, labels[m])
        cells = [_cell(data_uri(images[m], side), f"image {m}, class {name}", _short(name), side)]
        for s, stage in enumerate(item.stages):
            cells.append(_heat_cell(item, images, labels, classes, s, m, stage, side))
        body.append(f"<tr>{''.join(cells)}</tr>")
    return (
        '<div class="attributions" style="overflow-x:auto"><table style="border-collapse:collapse;font-size:12px;'
        f'text-align:center;width:auto"><thead><tr>{"".join(head)}</tr></thead><tbody>{"".join(body)}</tbody></table></div>'
    )


def invalid_reasons(item: AttributionSet) -> list[tuple[str, str]]:
    """``(stage, reason)`` of each stage whose maps must not be read."""
    return [
        (stage, note or "no reason was recorded")
        for stage, valid, note in zip(item.stages, item.valid, item.notes, strict=True)
        if not valid
    ]


def valid_images(notes: Sequence[str]) -> str:
    """``valid``, or how many maps of a valid stage are."""
    good = sum(not note for note in notes)
    return "valid" if good == len(notes) else f"{good} of {len(notes)} valid"


def invalid_images(item: AttributionSet, most: int = 4) -> list[tuple[str, str]]:
    """``(stage, which images and why)`` of each valid stage with single maps that must not be read; of more than
    ``most`` images only their number and the first ones."""
    found = []
    for stage, valid, notes in zip(item.stages, item.valid, item.image_notes, strict=True):
        bad = [(image, note) for image, note in enumerate(notes) if note]
        if not valid or not bad:
            continue
        said = "; ".join(f"image {image}: {note}" for image, note in bad[:most])
        more = f"; and {len(bad) - most} more" if len(bad) > most else ""
        found.append((stage, f"{len(bad)} of {len(notes)} maps ({said}{more})"))
    return found


def legend_html(item: AttributionSet) -> str:
    """What the colours of these heat maps mean; a method without negative values has no blue."""
    valid = [maps for maps, good in zip(item.maps, item.valid, strict=True) if good]
    if valid and not any((maps < 0).any() for maps in valid):
        return (
            '<div style="font-size:12px;color:#5f6c7b;display:flex;gap:8px;align-items:center">no influence'
            '<span style="display:inline-block;width:140px;height:12px;border-radius:3px;'
            'background:linear-gradient(90deg,#b9b9b9,rgb(178,24,43))"></span>strong influence, of either sign'
            "<span>· each map on its own scale · striped: not valid</span></div>"
        )
    return (
        '<div style="font-size:12px;color:#5f6c7b;display:flex;gap:8px;align-items:center">against the class'
        '<span style="display:inline-block;width:140px;height:12px;border-radius:3px;'
        'background:linear-gradient(90deg,rgb(33,102,172),#b9b9b9,rgb(178,24,43))"></span>for the class'
        "<span>· each map on its own scale · striped: not valid</span></div>"
    )


def _heat_cell(
    item: AttributionSet,
    images: np.ndarray,
    labels: np.ndarray,
    classes: Sequence[str],
    s: int,
    m: int,
    stage: str,
    side: int,
) -> str:
    if not item.valid[s] or item.image_notes[s][m]:
        reason = item.image_notes[s][m] if item.valid[s] else item.notes[s] or "no reason was recorded"
        return _cell(data_uri(hatched(images[m]), side), f"{stage}: not valid: {reason}", "not valid", side, "#5f6c7b")
    target = class_name(classes, item.targets[s, m])
    right = int(item.targets[s, m]) == int(labels[m])
    said = f"{stage}, image {m}: why {target}" + (f" ({item.notes[s]})" if item.notes[s] else "")
    caption = f"{'✓' if right else '✗'} {_short(target)}"
    uri = data_uri(overlay(images[m], item.maps[s, m]), side)
    return _cell(uri, said, caption, side, GOOD if right else BAD)


def _cell(uri: str, said: str, caption: str, side: int, colour: str = "#1f2933") -> str:
    """One table cell; ``caption`` is HTML, ``said`` plain text."""
    return (
        f'<td style="padding:4px 5px;vertical-align:top" title="{escape_html(said)}">'
        f'<img src="{uri}" alt="{escape_html(said)}" width="{side}" height="{side}" '
        'style="object-fit:contain;border-radius:3px;image-rendering:pixelated"><br>'
        f'<span style="color:{colour}">{caption}</span></td>'
    )


def _short(text: object, longest: int = 18) -> str:
    return escape_html(text, longest)


def _check(item: AttributionSet, images: np.ndarray, labels: np.ndarray) -> None:
    stages, count = len(item.stages), len(images)
    if (
        item.maps.ndim != 4
        or item.maps.shape[:2] != (stages, count)
        or item.targets.shape != (stages, count)
        or len(labels) != count
        or len(item.valid) != stages
        or len(item.notes) != stages
        or not _is_text_table(item.image_notes, stages, count)
    ):
        raise RunError(
            f"the {item.method} maps {item.maps.shape} do not fit {stages} stages and {count} images; "
            "run lwexplain analyze again"
        )


def _is_text_table(notes: object, rows: int, columns: int) -> bool:
    """Whether ``notes`` are lists of texts, as many as there are stages and images."""
    return (
        isinstance(notes, list)
        and len(notes) == rows
        and all(isinstance(row, list) and len(row) == columns for row in notes)
        and all(isinstance(note, str) for row in notes for note in row)
    )
