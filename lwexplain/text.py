"""Foreign text on its way out: names, notes and paths that a run, a data set or an error brings along.

Whoever made a run chose its names of stages, classes and methods. Each way out reads some of their characters as
orders; here is one function for each that makes them characters again.
"""

import html
import os
import re
import shlex
import unicodedata
from pathlib import Path

LONGEST = 300  # characters of one piece of foreign text

# Characters of other categories that are shown as nothing at all.
INVISIBLE = frozenset("\u034f\u115f\u1160\u17b4\u17b5\u180b\u180c\u180d\u180f\u2800\u3164\uffa0") | frozenset(
    map(chr, [*range(0xFE00, 0xFE10), *range(0xE0100, 0xE01F0)])
)
# Control, format (bidirectional overrides, zero width), lone surrogate, unassigned, private, line and paragraph ends.
UNSEEN_CATEGORIES = frozenset({"Cc", "Cf", "Cs", "Cn", "Co", "Zl", "Zp"})
WORD_JOINER = "\u2060"  # no width, no break: keeps two characters from being read as one sign


def plain(text: object, longest: int | None = LONGEST) -> str:
    r"""Text in one line for a terminal: what a terminal would obey or hide is spelled out, ``\x1b`` for escape.

    Args:
        text: Anything; its ``str`` is shown.
        longest: Most characters; what is longer ends in an ellipsis. None sets no limit.

    >>> plain("relu\x1b[2J")
    'relu\\x1b[2J'
    """
    characters = str(text)
    if longest is not None and len(characters) > longest:
        characters = characters[: longest + 1]
    shown = "".join(_spelled(character) if _is_unseen(character) else character for character in characters)
    if longest is not None and len(shown) > longest:
        shown = shown[: max(longest - 1, 0)] + "…"
    return shown


def escape_html(text: object, longest: int | None = LONGEST) -> str:
    """Text for an HTML page, or for the little HTML that plotly reads: shown as it is, attributes included."""
    return html.escape(plain(text, longest))


def escape_markdown(text: object, longest: int | None = LONGEST) -> str:
    """Text for Markdown, with Streamlit's additions: no link, image, HTML, formula, colour, icon or emoji comes of it.

    Addresses and icons are found after backslashes have been taken away, so a word joiner, which nobody sees, stands
    in between.
    """
    shown = re.sub(r" {2,}", lambda spaces: " " + "\u00a0" * (len(spaces[0]) - 1), plain(text, longest).strip())
    shown = re.sub(r"(?<=:)(?=\S)|(?<=@)|(?i:(?<=www))(?=\.)|(?<=[-<])(?=[-=>])|(?<=[>~])(?==)", WORD_JOINER, shown)
    shown = re.sub(r"([\\`*_{}\[\]<>|!$~^&:@])", r"\\\1", shown)
    return re.sub(r"^([-+#=]|\d+(?=[.)]))", lambda start: _escape_start(start[0]), shown)


def _escape_start(start: str) -> str:
    """What would begin a list or a heading; a number's own sign is the one after it."""
    return f"{start}\\" if start.isdigit() else f"\\{start}"


def shell_command(*words: str | Path) -> str:
    """A command line to copy: each word reaches the program as it is; a path that looks like an option gets ``./``."""
    return " ".join(_shell_word(word) for word in words)


def _shell_word(word: str | Path) -> str:
    text = str(word)
    if isinstance(word, Path) and text.startswith("-"):
        text = f"./{text}"
    if any(_is_unseen(character) for character in text):
        return f"$'{''.join(map(_shell_character, text))}'"
    return shlex.quote(text)


def _shell_character(character: str) -> str:
    """One character inside ``$'...'``; what cannot be seen as the numbers of its bytes."""
    if _is_unseen(character):
        try:
            octets = os.fsencode(character)
        except UnicodeEncodeError:
            octets = character.encode("utf-8", "surrogatepass")
        return "".join(f"\\x{octet:02x}" for octet in octets)
    return f"\\{character}" if character in "\\'" else character


def _is_unseen(character: str) -> bool:
    return unicodedata.category(character) in UNSEEN_CATEGORIES or character in INVISIBLE


def _spelled(character: str) -> str:
    code = ord(character)
    short = {"\n": "\\n", "\r": "\\r", "\t": "\\t"}.get(character)
    if short:
        return short
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"
