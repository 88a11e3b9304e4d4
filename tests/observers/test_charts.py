import numpy as np
import pytest
from reports import make_report, make_task

from segtrain.observers import charts
from segtrain.observers.canvas import MAGENTA, text_width


@pytest.fixture
def said(monkeypatch):
    """The names in the legends that are drawn."""
    names = []
    drawn = charts.legend
    monkeypatch.setattr(
        charts, "legend", lambda entries, width: names.extend(one.name for one in entries) or drawn(entries, width)
    )
    return names


def magenta_columns(picture):
    """Columns of the chart itself, not of its legend, with magenta in them."""
    return np.flatnonzero((picture[:-60] == np.array(MAGENTA)).all(2).any(0))


def test_the_curve_finds_the_natural_p_and_the_loss_that_top_p_holds(said):
    loss = np.zeros((10, 100), np.float32)
    loss[0, :50] = 2.0  # 5 % of the pixels hold all of the loss, equally
    charts.curve(loss, np.ones_like(loss, bool), 0.025)
    assert said == ["top_p 2.5 %: holds 50 % of the loss", "natural p 5 %: holds 99 % of the loss"]


def test_the_curve_leaves_ignored_pixels_out(said):
    loss = np.ones((10, 100), np.float32)
    valid = np.zeros_like(loss, bool)
    valid[:5] = True
    loss[~valid] = 1000.0
    charts.curve(loss, valid, None)
    assert said == ["natural p 99 %: holds 99 % of the loss"]


def test_the_curve_marks_top_p_where_it_lies():
    loss = np.random.default_rng(0).exponential(size=(100, 100)).astype(np.float32)
    left, right = (magenta_columns(charts.curve(loss, loss >= 0, top_p)) for top_p in (0.01, 0.5))
    assert left.max() < right.min()


def test_the_histogram_paints_from_the_threshold_on(said):
    loss = np.geomspace(1e-3, 1.0, 1000)
    picture = charts.histogram(loss, 0.1, 1 / 3)
    assert said == ["mined: top_p 33.3 %, loss >= 0.1", "not mined"]
    columns = magenta_columns(picture)
    share = (columns.max() - columns.min()) / 330
    assert share == pytest.approx(1 / 5, abs=0.03)  # one decade of the five that are shown


@pytest.mark.parametrize("loss", [0.0, 1e-7, 1e-4, 10.0, 100.0])
def test_the_ends_of_the_histogram_hold_what_lies_beyond(loss):
    picture = charts.histogram(np.full(9, loss, np.float32), 0.0, 1.0)
    assert magenta_columns(picture).size


def test_a_loss_equal_to_the_threshold_counts_as_mined():
    assert magenta_columns(charts.histogram(np.full(9, 0.5), 0.5, 1.0)).size
    assert not magenta_columns(charts.histogram(np.full(9, 0.5), 0.6, 0.0)).size


@pytest.mark.parametrize(
    "loss",
    [
        np.zeros(0),
        np.zeros(5),
        np.full(5, np.nan),
        np.full(5, np.inf),
        np.array([1e-30]),
        np.array([1e9, 3.0]),
        -np.ones(4),
    ],
    ids=["nothing", "zeros", "nan", "inf", "tiny", "huge", "negative"],
)
def test_charts_of_odd_losses_are_drawn(loss):
    for picture in (
        charts.curve(loss, np.ones(loss.shape, bool), 0.5),
        charts.histogram(loss, 0.5, 0.5),
        charts.histogram(loss, None, None),
        charts.histogram(loss, np.inf, 0.0),
    ):
        assert picture.dtype == np.uint8
        assert (picture < 128).any()


def test_the_confusion_is_darkest_where_a_row_has_most():
    report = make_report((), make_task(("a", "b", "c"), [(0, 0, 0)] * 3))
    report.confusion[:] = [[90, 10, 0], [0, 0, 0], [40, 0, 60]]
    left = 8 + max(text_width(name) for name in "abc") + 6
    corners = charts.confusion(report)[-9 - 3 * 38 + 4 : -9 : 38, left + 4 : left + 3 * 38 : 38]
    shade = corners.astype(int).sum(2)
    assert shade[0, 0] < shade[2, 2] < shade[2, 0] < shade[0, 1] < shade[0, 2]
    assert (shade[1] == 765).all()


def test_the_confusion_of_many_classes_is_of_those_confused_most():
    names = tuple(f"class {index}" for index in range(150))
    report = make_report((), make_task(names, [(0, 0, 0)] * 150))
    report.confusion[:] = np.eye(150, dtype=np.int64) * 100
    assert charts.confusion(report).shape[1] < 1400


def test_classes_are_shown_by_what_is_mined_of_them_against_what_there_is():
    names = [f"class {index}" for index in range(30)]
    kept, valid = np.arange(30.0), np.full(30, 100.0)
    valid[29] = 0  # it is not there
    picture = charts.classes(kept, valid, names)
    rows = (picture == np.array(charts.MAGENTA)).all(2)[:, charts._LEFT :].sum(1)
    assert rows.max() > 0
    assert picture.shape[1] < 480, "wider than a card of TensorBoard can show readably"
    twenty, all_of_them = (charts.classes(kept[:n], valid[:n], names[:n]).shape[0] for n in (20, 29))
    assert all_of_them - twenty <= 2 * 20, "of many classes only those with the highest lift, and a line that says so"
    assert charts.classes(np.zeros(3), np.ones(3), names[:3]).size > 0
