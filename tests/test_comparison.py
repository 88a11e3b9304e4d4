import csv
import io
import math

import numpy as np
import pytest
from scipy import stats

from segtrain.comparison import compare, interval, latex, markdown, to_csv

A = {0: {"val/miou": 0.5, "val/iou/a|b": 0.2}, 1: {"val/miou": 0.6, "val/iou/a|b": 0.3}, 2: {"val/miou": 0.7}}
B = {0: {"val/miou": 0.52, "val/iou/a|b": 0.1}, 1: {"val/miou": 0.63, "val/iou/a|b": 0.3}, 2: {"val/miou": 0.71}}


def row(rows, metric, variant):
    return next(one for one in rows if (one.metric, one.variant) == (metric, variant))


def test_differences_are_paired_by_seed_with_the_t_interval_of_scipy():
    one = row(compare({"A": A, "B": B}), "val/miou", "B")
    differences = [0.02, 0.03, 0.01]
    assert one.differences == pytest.approx(differences)
    assert (one.mean, one.sd) == pytest.approx((np.mean([0.52, 0.63, 0.71]), np.std([0.52, 0.63, 0.71], ddof=1)))
    expected = stats.t.interval(0.95, 2, loc=np.mean(differences), scale=stats.sem(differences))
    assert (one.low, one.high) == pytest.approx(expected)
    assert one.apart == (expected[0] > 0)


def test_a_seed_or_a_class_that_one_of_the_two_lacks_makes_no_pair():
    rows = compare({"A": A, "B": {1: B[1], 7: B[0]}})
    assert row(rows, "val/miou", "B").differences == pytest.approx([0.03])
    assert row(rows, "val/miou", "B").runs == 2
    assert math.isnan(row(rows, "val/miou", "B").low)
    assert row(compare({"A": A, "B": B}), "val/iou/a|b", "B").differences == pytest.approx([-0.1, 0.0])


def test_one_value_has_no_interval():
    assert all(map(math.isnan, interval([1.0])))


def test_the_tables_say_mean_deviation_difference_and_interval_and_mark_what_is_apart_from_0():
    close = {seed: {"val/miou": one["val/miou"] + 0.05 + 0.001 * seed} for seed, one in A.items()}
    text = markdown(compare({"A": A, "B": B, "C": close}))
    assert "0.600 ± 0.100" in text
    assert "| +0.020 [−0.005, +0.045]" in text
    assert "**+0.051 [+0.049, +0.053]**" in text
    assert "a\\|b" in text
    assert len({line.count(" | ") for line in text.split("\n\n")[0].splitlines()}) == 1


def test_the_tables_for_a_paper_are_the_same_ones_in_latex():
    close = {seed: {"val/miou": one["val/miou"] + 0.05 + 0.001 * seed} for seed, one in A.items()}
    text = latex(compare({"A": A, "p_5 %": close}))
    assert r"\textbf{mIoU} & 0.600 $\pm$ 0.100 & 0.651 $\pm$ 0.101 \\" in text
    assert r"\textbf{mIoU} & \textbf{+0.051 [+0.049, +0.053]} \\" in text
    assert r"p\_5 \% $-$ A \\" in text
    assert r"a\textbar{}b & " in text
    assert text.count(r"\begin{tabular}{lc}") == text.count(r"\begin{tabular}{lcc}") == 1


def test_the_csv_holds_the_same_numbers_and_nothing_where_one_is_unknown():
    table = list(csv.DictReader(io.StringIO(to_csv(compare({"A": A, "B": {0: B[0]}})))))
    assert [one["variant"] for one in table] == ["A", "B", "A", "B"]
    assert float(table[1]["difference"]) == pytest.approx(0.02)
    assert table[1]["low"] == table[1]["sd"] == ""
