"""The picture of the README, drawn from the back-propagation run of the demonstration.

    lwexplain demo
    python tests/benchmarks/readme_picture.py runs/demo/digits_bp      # writes docs/images/answer-*.svg

Above: the test accuracy to expect of a network of each depth, with its 90 % interval. Below: what that depth costs.
There is one picture for light pages and one for dark ones; both have a transparent ground.
"""

import argparse
from dataclasses import dataclass
from html import escape
from pathlib import Path

import lwexplain as lw
from lwexplain.advice.prospects import Prospect
from lwexplain.advice.recommend import Recommendation

FOLDER = Path(__file__).parents[2] / "docs" / "images"
WIDTH, HEIGHT = 880, 520
LEFT, RIGHT = 64, 16
TOP, FLOOR = 132, 352  # of the accuracies
BARS_TOP, BARS_FLOOR = 422, 486  # of the costs
SHOWN_POINTS = 7
"""Accuracies that lie further below that of the whole network are arrows at the floor."""

FONT = "system-ui, -apple-system, 'Segoe UI', 'Helvetica Neue', Arial, sans-serif"


@dataclass(frozen=True)
class Palette:
    """Colours of a picture; ``chosen`` marks the recommended depth, ``enough`` the depths that are good enough."""

    ink: str
    muted: str
    grid: str
    chosen: str
    enough: str
    short: str
    column: str


PALETTES = {
    "light": Palette("#1f2933", "#5f6c7b", "#e1e6ec", "#b3261e", "#0072b2", "#9aa5b1", "#b3261e14"),
    "dark": Palette("#e8edf2", "#a3afbb", "#333d48", "#ff8a7a", "#6fbdf0", "#75828f", "#ff8a7a1f"),
}


class Picture:
    """SVG elements, collected one by one."""

    def __init__(self, palette: Palette) -> None:
        self.palette = palette
        self.parts: list[str] = []

    def text(
        self,
        x: float,
        y: float,
        words: str,
        *,
        size: float = 13,
        colour: str = "",
        anchor: str = "start",
        bold: bool = False,
    ) -> None:
        weight = ' font-weight="600"' if bold else ""
        fill = colour or self.palette.ink
        self.parts.append(
            f'<text x="{x:.1f}" y="{y:.1f}" font-size="{size}" fill="{fill}" text-anchor="{anchor}"{weight}>'
            f"{escape(words)}</text>"
        )

    def line(self, x1: float, y1: float, x2: float, y2: float, colour: str, width: float = 1, dash: str = "") -> None:
        dashed = f' stroke-dasharray="{dash}"' if dash else ""
        self.parts.append(
            f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" stroke="{colour}" '
            f'stroke-width="{width}" stroke-linecap="round"{dashed}/>'
        )

    def box(self, x: float, y: float, width: float, height: float, colour: str, radius: float = 3) -> None:
        self.parts.append(
            f'<rect x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height:.1f}" rx="{radius}" fill="{colour}"/>'
        )

    def dot(self, x: float, y: float, radius: float, colour: str) -> None:
        self.parts.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{radius}" fill="{colour}"/>')

    def arrow_down(self, x: float, y: float, colour: str) -> None:
        self.parts.append(f'<path d="M {x - 7:.1f} {y - 9:.1f} h 14 l -7 10 z" fill="{colour}"/>')

    def svg(self, title: str) -> str:
        body = "\n".join(self.parts)
        return (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" height="{HEIGHT}" '
            f'font-family="{FONT}" role="img">\n<title>{escape(title)}</title>\n{body}\n</svg>\n'
        )


def draw(advice: Recommendation, subject: str, palette: Palette) -> str:
    """The picture of one recommendation that names a depth, as SVG."""
    picture = Picture(palette)
    step = (WIDTH - LEFT - RIGHT) / advice.full_depth
    centres = [LEFT + step * (position + 0.5) for position in range(advice.full_depth)]
    chosen = advice.prospects[advice.depth - 1]
    _mark_chosen(picture, centres[advice.depth - 1], step)
    _headline(picture, advice, chosen, subject)
    _accuracies(picture, advice, centres)
    _costs(picture, advice, centres, step)
    return picture.svg(f"{subject}: accuracy to expect of every depth, and what it costs")


def _mark_chosen(picture: Picture, centre: float, step: float) -> None:
    picture.box(centre - step / 2 + 3, TOP - 10, step - 6, BARS_FLOOR - TOP + 42, picture.palette.column, 8)


def _headline(picture: Picture, advice: Recommendation, chosen: Prospect, subject: str) -> None:
    muted, left = picture.palette.muted, LEFT - 48
    low, high = advice.depth_interval
    loss = 100 * (advice.full_accuracy - chosen.expected_accuracy)
    saved = f"{100 * (1 - advice.params_ratio):.0f} % of the parameters and {100 * (1 - advice.flops_ratio):.0f} %"
    place = f"Stop after {chosen.stage}, stage {chosen.depth} of {advice.full_depth}"
    picture.text(left, 28, place, size=22, bold=True)
    picture.text(
        left, 53, f"{subject}. 90 % interval of the place to stop: stage {low} to {high}.", size=14, colour=muted
    )
    picture.text(
        left,
        73,
        f"The cut costs {loss:.1f} points of accuracy and saves {saved} of the operations.",
        size=14,
        colour=muted,
    )


def _accuracies(picture: Picture, advice: Recommendation, centres: list[float]) -> None:
    palette = picture.palette
    bottom = int(100 * advice.full_accuracy - SHOWN_POINTS) // 2 * 2

    def height(accuracy: float) -> float:
        return FLOOR - (100 * accuracy - bottom) / (100 - bottom) * (FLOOR - TOP)

    picture.text(LEFT - 48, TOP - 22, "test accuracy to expect", size=13, bold=True)
    for percent in range(bottom, 101, 2):
        y = height(percent / 100)
        picture.line(LEFT, y, WIDTH - RIGHT, y, palette.grid)
        picture.text(LEFT - 10, y + 4, f"{percent} %", size=12, colour=palette.muted, anchor="end")
    for centre, prospect in zip(centres, advice.prospects, strict=True):
        is_chosen = prospect.depth == advice.depth
        colour = palette.chosen if is_chosen else palette.enough if prospect.sufficient else palette.short
        low, high = prospect.expected_accuracy_interval
        y, accuracy = height(prospect.expected_accuracy), f"{100 * prospect.expected_accuracy:.1f}"
        picture.text(centre, FLOOR + 24, prospect.stage, size=12.5, anchor="middle", bold=is_chosen)
        picture.line(centre, min(FLOOR, height(low)), centre, max(TOP, height(high)), colour, 3)
        if y > FLOOR:  # below what is shown: an arrow, and the number beside it
            picture.arrow_down(centre, FLOOR - 2, colour)
            picture.text(centre + 12, FLOOR - 6, accuracy, size=13)
        else:
            picture.dot(centre, y, 7 if is_chosen else 5.5, colour)
            picture.text(centre + 10, y + 4.5, accuracy, size=13, bold=is_chosen)
    _legend(picture)


def _legend(picture: Picture) -> None:
    """What the colours mean, at the right above the accuracies."""
    palette = picture.palette
    entries = [("recommended", palette.chosen), ("good enough", palette.enough), ("not surely enough", palette.short)]
    x = WIDTH - RIGHT - 384.0
    for words, colour in entries:
        picture.dot(x, TOP - 26.5, 5, colour)
        picture.text(x + 10, TOP - 22, words, size=12.5, colour=palette.muted)
        x += 28 + 7.4 * len(words)


def _costs(picture: Picture, advice: Recommendation, centres: list[float], step: float) -> None:
    palette = picture.palette
    full = advice.prospects[-1].parameters
    picture.text(LEFT - 48, BARS_TOP - 8, "parameters, share of the whole network", size=13, bold=True)
    for centre, prospect in zip(centres, advice.prospects, strict=True):
        share = prospect.parameters / full
        tall = max(2.0, share * (BARS_FLOOR - BARS_TOP))
        is_chosen = prospect.depth == advice.depth
        colour = palette.chosen if is_chosen else palette.enough if prospect.sufficient else palette.short
        picture.box(centre - step * 0.26, BARS_FLOOR - tall, step * 0.52, tall, colour)
        percent = f"{100 * share:.0f} %" if share >= 0.1 else f"{100 * share:.1f} %" if share >= 0.001 else "< 0.1 %"
        picture.text(centre, BARS_FLOOR + 20, percent, size=12.5, anchor="middle", bold=is_chosen)
    picture.line(LEFT, BARS_FLOOR + 0.5, WIDTH - RIGHT, BARS_FLOOR + 0.5, palette.grid)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path, help="an analyzed run, such as runs/demo/digits_bp")
    parser.add_argument("--subject", default="ResNet-18, trained on handwritten digits")
    asked = parser.parse_args()
    advice = lw.recommend(asked.run)
    if advice.depth is None:
        raise SystemExit(f"{asked.run}: the verdict is {advice.verdict}, which names no depth to draw")
    FOLDER.mkdir(parents=True, exist_ok=True)
    for name, palette in PALETTES.items():
        (FOLDER / f"answer-{name}.svg").write_text(draw(advice, asked.subject, palette), encoding="utf-8")


if __name__ == "__main__":
    main()
