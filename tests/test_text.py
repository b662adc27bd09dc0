"""Foreign text on its way to a terminal, a page and a shell."""

import html
import re
import subprocess
import unicodedata
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from lwexplain.text import escape_html, escape_markdown, plain, shell_command

HOSTILE = {
    "clear screen": "relu\x1b[2J\x1b[H",
    "window title": "\x1b]0;owned\x07layer1",
    "link of a terminal": "\x1b]8;;http://example.org\x1b\\layer1\x1b]8;;\x1b\\",
    "clipboard": "\x1b]52;c;cm0gLXJmIH4=\x07",
    "eight-bit escape": "\x9b2Jlayer1",
    "overwritten line": "layer1\rlayer2",
    "second line": "layer1\nerror: run this",
    "right to left": "layer1\u202egpj.exe",
    "isolate": "\u2066layer1\u2069",
    "no width": "lay\u200ber\u200d1\ufeff",
    "line separator": "layer1\u2028layer2",
    "lone surrogate": "layer\udcff",
    "tag characters": "layer1\U000e0041",
    "blank letter": "layer\u3164",
    "null": "layer\0one",
}


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE)
def test_what_a_terminal_would_obey_or_hide_is_spelled_out(text):
    shown = plain(text)
    assert all(unicodedata.category(character)[0] != "C" for character in shown)
    assert "\\" in shown
    shown.encode("utf-8")


def test_spelling_is_that_of_python():
    assert plain("\x1b\n\r\t\x07\x85") == "\\x1b\\n\\r\\t\\x07\\x85"
    assert plain("\u202e\udcff\U000e0041") == "\\u202e\\udcff\\U000e0041"


@pytest.mark.parametrize(
    "text", ["layer1.0", "Katze", "Männchen", "飞机", "é a b", "50 % < 60 %", "C:\\runs", "[red]x[/red]"]
)
def test_what_can_be_seen_stays(text):
    assert plain(text) == text


def test_long_text_ends_in_an_ellipsis():
    assert plain("a" * 50, 10) == "a" * 9 + "…"
    assert plain("a" * 10, 10) == "a" * 10
    assert len(plain("\x1b" * 10**6)) == 300
    assert plain("a" * 1000, None) == "a" * 1000


def test_anything_can_be_shown():
    assert plain(None) == "None"
    assert plain(Path("a/b")) == "a/b"
    assert plain(ValueError("x\ny")) == "x\\ny"


@given(st.text(st.characters(exclude_categories=())))
def test_any_text_is_one_line_of_visible_characters(text):
    shown = plain(text)
    assert shown.splitlines() == ([shown] if shown else [])
    assert len(shown) <= 300
    shown.encode("utf-8")


def test_html_shows_tags_and_quotes_as_they_are():
    shown = escape_html("<img src=x onerror='f(\"a\")'>&\x1b")
    assert not set("<>\"'") & set(shown)
    assert html.unescape(shown) == "<img src=x onerror='f(\"a\")'>&\\x1b"


MARKDOWN = {
    "image": "![x](http://example.org/a.png)",
    "link": "[click](http://example.org)",
    "address": "http://example.org/a",
    "bare address": "www.example.org",
    "mail": "a@example.org",
    "html": "<img src='http://example.org'>",
    "automatic link": "<http://example.org>",
    "emphasis": "**a** _b_ ~~c~~ `d`",
    "heading": "# a",
    "list": "- a",
    "numbered list": "1. a",
    "quote": "> a",
    "table": "|a|b|",
    "formula": "$a^2$",
    "colour": ":red[a]",
    "icon": ":material/close:",
    "emoji": ":smile:",
    "reference": "[a]: http://example.org",
    "break": "a\n\n# b",
    "entity": "&lt;b&gt;",
    "rule": "***",
    "code block": "    a",
}


@pytest.mark.parametrize("text", MARKDOWN.values(), ids=MARKDOWN)
def test_markdown_shows_foreign_text_as_it_is(text):
    shown = escape_markdown(text)
    assert as_parsed(shown) == plain(text).strip()
    item = as_parsed(f"- **{shown}**: {shown}", inside=("bullet_list", "list_item", "strong"))
    assert item.count(plain(text).strip()) == 2


@pytest.mark.parametrize("text", MARKDOWN.values(), ids=MARKDOWN)
def test_what_streamlit_adds_to_markdown_forms_nothing_either(text):
    shown = escape_markdown(text)
    found = [address for pattern in FOUND_IN_TEXT for address in re.findall(pattern, read_markdown(shown)[1])]
    assert found == []
    assert not re.search(r"(?<!\\)[:$]", shown)  # colours, formulas


@given(st.text(st.sampled_from("ab1 \\`*_{}[]()#+-.!|$:~<>&^@/=\n\"'w"), max_size=30))
def test_any_signs_in_markdown_stay_signs(text):
    assert as_parsed(escape_markdown(text)) == plain(text).strip()


# What remark finds in text once it is parsed: addresses, mail addresses, emoji and icons.
FOUND_IN_TEXT = (
    r"(?i)(?:https?://|www(?=\.))[-.\w]+[^ \t\r\n]*",
    r"[-.\w+]+@[-\w]+(?:\.[-\w]+)+",
    r":(?:\+1|-1|[-\w]+):",
    r":material/\w+:",
)


def as_parsed(markdown, inside=()):
    """The text that a CommonMark parser, with tables and strike-through, reads; nothing but paragraphs may be in it."""
    types, text = read_markdown(markdown)
    assert types <= {"paragraph", "inline", "text", "text_special", *inside}
    return text.replace("\u2060", "").replace("\u00a0", " ")


def read_markdown(markdown):
    tokens = MarkdownIt("commonmark").enable(["table", "strikethrough"]).parse(markdown)
    inner = [child for token in tokens for child in token.children or []]
    types = {token.type.removesuffix("_open").removesuffix("_close") for token in [*tokens, *inner]}
    return types, "".join(child.content for child in inner)


def test_words_in_markdown_stay_readable():
    assert escape_markdown("depth 3 of 9, layer-one (50.1 %)") == "depth 3 of 9, layer-one (50.1 %)"


SHELL = {
    "space": "my run",
    "substitution": "$(touch owned)",
    "backticks": "`touch owned`",
    "two commands": "a; touch owned",
    "quote": "it's",
    "new line": "a\ntouch owned",
    "escape": "a\x1b[2Jb",
    "bytes that are no text": "caf\udce9",
    "right to left": "a\u202eb",
    "backslash and quote beside an escape": "\\'\x07",
    "home": "~root",
    "empty": "",
    "history": "a!b",
    "brackets": "a*[b]?",
    "number after an escape": "\x01" + "99",
}


@pytest.mark.parametrize("word", SHELL.values(), ids=SHELL)
def test_a_word_of_a_command_reaches_the_program_as_it_is(word, tmp_path):
    line = shell_command("printf", "%s", word)
    assert plain(line, None) == line
    done = subprocess.run(["bash", "-c", line], capture_output=True, cwd=tmp_path, timeout=20)
    assert done.stdout == word.encode("utf-8", "surrogateescape")
    assert list(tmp_path.iterdir()) == []


def test_a_path_that_looks_like_an_option_is_no_option():
    assert shell_command("lwexplain", "analyze", Path("-rf")) == "lwexplain analyze ./-rf"
    assert shell_command("lwexplain", "report", Path("a b"), "--out", Path("c")) == "lwexplain report 'a b' --out c"
