"""Tables of text: one idiom for the terminal, Markdown and pages."""

from lwexplain.text_table import LONGEST_CELL, TextTable


def test_a_table_has_a_row_for_each_item_and_a_column_for_each_title():
    table = TextTable.of([("conv1", 3), ("conv2", 4)], {"stage": lambda item: item[0], "n": lambda item: str(item[1])})
    assert table == TextTable(["stage", "n"], [["conv1", "3"], ["conv2", "4"]])
    assert TextTable.of([], {"stage": str}) == TextTable(["stage"], [])


def test_words_stand_to_the_left_and_numbers_to_the_right():
    table = TextTable(["stage", "depth"], [["a", "1"], ["bcdefgh", "10"]])
    assert table.lines() == ["stage    depth", "-------  -----", "a            1", "bcdefgh     10"]


def test_a_table_without_rows_is_its_header():
    assert TextTable(["stage", "depth"], []).lines() == ["stage  depth", "-----  -----"]


def test_long_cells_are_cut_and_what_a_terminal_would_obey_is_spelled_out():
    table = TextTable(["a"], [["x" * 500], ["\x1b[2J"]])
    assert table.lines()[2] == "x" * (LONGEST_CELL - 1) + "…"
    assert table.lines(longest=5)[2:] == ["xxxx…", "\\x1b…"]


def test_markdown_aligns_all_but_the_first_column_to_the_right():
    assert TextTable(["a", "b"], [["x", "1"]]).markdown() == "| a | b |\n| --- | ---: |\n| x | 1 |\n"


def test_markdown_of_foreign_text_is_escaped_unless_it_is_our_own():
    table = TextTable(["a"], [["x|y"]])
    assert table.markdown() == "| a |\n| --- |\n| x\\|y |\n"
    assert table.markdown(escaped=False) == "| a |\n| --- |\n| x|y |\n"
