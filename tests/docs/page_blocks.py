"""The pages of the documentation, and the code blocks in them.

A comment on the line before a block says what a test must know of it:

``<!-- not run: REASON -->``   the block cannot run here
``<!-- empty runs -->``        the block begins with an empty folder ``runs``

A page whose first line is ``<!-- with runs -->`` speaks of runs that its reader has made before.
"""

import re
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
RUN_LANGUAGES = ("python", "sh")


@dataclass(frozen=True)
class Block:
    """A fenced block: what it holds, on which line it begins, why it is not run, whether it begins without runs."""

    language: str
    code: str
    line: int
    reason: str
    empty_runs: bool


def name_of(page):
    return page.relative_to(ROOT).as_posix()


def blocks_of(text):
    """All fenced blocks of a page, in order."""
    found, lines, number = [], text.splitlines(), 0
    while number < len(lines):
        fence = re.fullmatch(r"```(\w*)", lines[number])
        if fence is None:
            number += 1
            continue
        before = lines[number - 1] if number else ""
        reason = re.fullmatch(r"<!-- not run: (.+) -->", before)
        end = lines.index("```", number + 1)
        code = "\n".join(lines[number + 1 : end])
        found.append(Block(fence[1], code, number + 2, reason[1] if reason else "", before == "<!-- empty runs -->"))
        number = end + 1
    return found


def begins_with_runs(text):
    return text.startswith("<!-- with runs -->\n")
