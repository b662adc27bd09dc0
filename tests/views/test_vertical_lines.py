"""Lines over the height of panels: the same as Plotly's own, and beside the shapes that a figure has."""

from plotly.subplots import make_subplots

from lwexplain.views.vertical_lines import add_vertical_lines

PLACES = [(1.5, 1, 1), (2.5, 1, 1), (3.0, 2, 2)]
LINE = {"color": "red", "width": 1}


def figure_with_a_line():
    figure = make_subplots(rows=2, cols=2)
    for row, column in ((1, 1), (2, 2)):  # Plotly draws no line in a panel without a curve
        figure.add_scatter(x=[1, 3], y=[0, 1], row=row, col=column)
    return figure.add_hline(y=0.5, row=1, col=1)


def test_lines_are_those_that_plotly_draws_one_by_one():
    ours, expected = figure_with_a_line(), figure_with_a_line()
    add_vertical_lines(ours, PLACES, LINE, layer="below")
    for x, row, column in PLACES:
        expected.add_vline(x=x, row=row, col=column, line=LINE, layer="below")
    assert ours.to_dict() == expected.to_dict()
    assert len(ours.layout.shapes) == 4


def test_no_place_means_no_line():
    figure = make_subplots(rows=1, cols=1)
    add_vertical_lines(figure, [], LINE)
    assert not figure.layout.shapes
