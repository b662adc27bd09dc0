"""A table of text: what commands print, the report and the explorer show, and Markdown files hold."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TypeVar

from lwexplain.text import escape_markdown, plain

LONGEST_CELL = 80
Item = TypeVar("Item")


@dataclass(frozen=True)
class TextTable:
    """A header and rows of text."""

    header: list[str]
    rows: list[list[str]]

    @classmethod
    def of(cls, items: Iterable[Item], columns: Mapping[str, Callable[[Item], str]]) -> "TextTable":
        """A row for each item and a column for each title, which holds what its function says of the item."""
        return cls(list(columns), [[write(item) for write in columns.values()] for item in items])

    def lines(self, longest: int = LONGEST_CELL) -> list[str]:
        """The table for a terminal: columns of words to the left, of numbers to the right; cells are cut at
        ``longest`` characters."""
        shown = [[plain(cell, longest) for cell in row] for row in [self.header, *self.rows]]
        columns = list(zip(*shown, strict=True))
        widths = [max(map(len, column)) for column in columns]
        to_left = [not any(cell[:1].isdigit() for cell in column[1:]) for column in columns]

        def line(cells: list[str]) -> str:
            aligned = (
                cell.ljust(width) if left else cell.rjust(width)
                for cell, width, left in zip(cells, widths, to_left, strict=True)
            )
            return "  ".join(aligned).rstrip()

        return [line(shown[0]), line(["-" * width for width in widths]), *map(line, shown[1:])]

    def markdown(self, *, escaped: bool = True) -> str:
        """The table in Markdown; all columns but the first are aligned to the right.

        ``escaped`` False is for text of our own, which is read as it stands, too.
        """
        rule = ["---", *["---:"] * (len(self.header) - 1)]
        written = escape_markdown if escaped else str
        header, *rows = [[written(cell) for cell in cells] for cells in [self.header, *self.rows]]
        return "\n".join(f"| {' | '.join(cells)} |" for cells in [header, rule, *rows]) + "\n"
