import itertools
import math
import xml.etree.ElementTree as ElementTree

import pytest

from segtrain import svg


def test_names_are_text_and_never_markup():
    chart = svg.intervals("<b>", {"a & b": [svg.Bar("<script>", 0.1, -0.1, 0.3, (0.1, 0.2))]})
    root = ElementTree.fromstring(chart)
    texts = {element.text for element in root.iter() if element.text and element.text.strip()}
    assert {"<b>", "a & b", "<script>"} <= texts


def test_what_is_not_known_is_left_out():
    chart = svg.intervals("t", {"a": [svg.Bar("x", 0.1, math.nan, math.nan, (0.1,))]})
    assert "nan" not in chart
    ElementTree.fromstring(svg.intervals("nothing", {}))


@pytest.mark.parametrize(("low", "high"), [(0, 1), (-0.013, 0.021), (3, 3), (0, 0), (1e-9, 2e-9), (-5e6, 7e7)])
def test_the_ticks_are_evenly_spaced_and_enclose_the_range(low, high):
    first, last, marks = svg.ticks(low, high)
    assert first <= low + 1e-6
    assert high - 1e-6 * abs(high) <= last
    assert (marks[0], marks[-1]) == (first, last)
    assert 2 <= len(marks) <= 9
    steps = [b - a for a, b in itertools.pairwise(marks)]
    assert steps == pytest.approx([steps[0]] * len(steps))


def test_lines_break_where_a_value_is_unknown_and_a_lone_value_is_a_point():
    chart = svg.lines("t", {"a": [(0, 1.0), (1, 2.0), (2, math.nan), (3, 1.0)], "b": []})
    assert chart.count("<polyline") == 2
    assert chart.count("<circle") == 1
    assert "nan" not in chart
    ElementTree.fromstring(chart)


def test_a_long_line_is_drawn_from_means_that_keep_its_end():
    chart = svg.lines("t", {"a": [(x, float(x % 2)) for x in range(10_000)]})
    line = next(element for element in ElementTree.fromstring(chart).iter() if element.tag.endswith("polyline"))
    points = [tuple(map(float, point.split(","))) for point in line.get("points").split()]
    assert len(points) <= 300
    assert points[-1][0] == pytest.approx(544, abs=0.2), "the right edge"
    assert len({y for _, y in points[:-1]}) == 1
