import pickle

import numpy as np
import pytest

from segtrain.data.labels import IGNORE, LabelSpec, from_values, given_labels, made_up_palette, ranges
from segtrain.errors import DataError


def as_mask(*values: int, dtype: type = np.uint8) -> np.ndarray:
    return np.array([values], dtype)


def test_without_a_table_raw_values_are_train_ids_and_255_is_ignored():
    spec = LabelSpec(("a", "b"))
    assert spec.decode(as_mask(0, 1, 255), "m.png").tolist() == [[0, 1, 255]]
    task = spec.task("segmentation")
    assert (task.classes, task.num_classes, task.ignore_index) == (("a", "b"), 2, 255)
    assert task.palette == ((0, 0, 0), (128, 0, 0))


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int32])
def test_the_table_maps_all_integer_types_alike(dtype: type):
    spec = LabelSpec(("a", "b"), table={7: 0, 33: 1, 11: IGNORE})
    decoded = spec.decode(as_mask(7, 33, 11, 7, dtype=dtype), "m.png")
    assert decoded.tolist() == [[0, 1, 255, 0]]
    assert decoded.dtype == np.uint8


def test_an_unknown_value_is_an_error_with_file_value_and_count():
    spec = LabelSpec(tuple("abcdefg"))
    with pytest.raises(DataError, match=r"masks/0012\.png holds 7 \(2 pixels\), 9 \(1 pixels\); known are 0\.\.6, 255"):
        spec.decode(as_mask(0, 7, 7, 9, 255), "masks/0012.png")


@pytest.mark.parametrize("value", [-1, -7, 3, 70000, 2**31 - 1])
def test_values_outside_of_8_bits_are_unknown_and_never_wrap_around(value: int):
    with pytest.raises(DataError, match=rf"holds {value} \(1 pixels\)"):
        LabelSpec(("a", "b", "c")).decode(as_mask(0, value, dtype=np.int32), "m.png")


def test_a_value_without_entry_is_not_ignored_even_if_it_is_255():
    with pytest.raises(DataError, match=r"255 \(1 pixels\)"):
        LabelSpec(("a",), table={0: 0}).decode(as_mask(0, 255), "m.png")


def test_values_name_classes_in_order_merge_them_and_can_ignore():
    spec = from_values({0: "background", 255: "vessel", 3: "ignore", 4: "vessel"})
    assert spec.names == ("background", "vessel")
    assert spec.decode(as_mask(0, 255, 3, 4), "m.png").tolist() == [[0, 1, 255, 1]]


def test_255_is_ignored_unless_values_give_it_a_class():
    assert from_values({0: "a", 1: "b"}).decode(as_mask(255), "m.png").tolist() == [[255]]


COLORS = {"road": (128, 64, 128), "sky": (70, 130, 180), "ignore": (0, 0, 0)}


def test_colours_become_train_ids():
    spec = from_values({0: "road", 1: "sky"}, COLORS)
    mask = np.array([[COLORS["sky"], COLORS["road"], COLORS["ignore"]]], np.uint8)
    assert spec.decode(mask, "m.png").tolist() == [[1, 0, 255]]
    assert spec.task("segmentation").palette == (COLORS["road"], COLORS["sky"])


def test_an_unknown_colour_is_an_error_with_file_colour_and_count():
    spec = given_labels(None, {0: "road", 1: "sky"}, COLORS)
    with pytest.raises(DataError, match=r"m\.png holds colours .*: \[1, 2, 3\] \(2 pixels\); add them to palette"):
        spec.decode(np.array([[[1, 2, 3], [1, 2, 3], [0, 0, 0]]], np.uint8), "m.png")


def test_advice_is_of_keys_that_the_data_set_has():
    layout, own = LabelSpec(("a", "b")), given_labels(["a", "b"], None, None)
    for mask in (as_mask(0, 9), np.array([[[1, 0, 0]]], np.uint8)):
        with pytest.raises(DataError) as told:
            layout.decode(mask, "m.png")
        assert "values: {" not in str(told.value)
        assert "palette:" not in str(told.value)
        with pytest.raises(DataError, match=r"values: \{9: ignore\}|give palette: \{"):
            own.decode(mask, "m.png")


def test_indices_that_were_saved_as_grey_colours_are_recognised():
    grey = np.repeat(np.array([[[0], [3], [7]]], np.uint8), 3, axis=2)
    with pytest.raises(DataError, match="all are grey, so each value was saved three times; save it once, as 8-bit"):
        LabelSpec(("a", "b")).decode(grey, "m.png")


def test_colours_without_a_palette_name_the_remedy():
    spec = given_labels(["a", "b"], None, None)
    with pytest.raises(
        DataError, match=r"is RGB \(2x1x3\).* Distinct colours: 2; all in the VOC palette.*palette: voc"
    ):
        spec.decode(np.array([[[0, 0, 0], [128, 0, 0]]], np.uint8), "m.png")
    with pytest.raises(DataError, match=r"Distinct colours: 1; give palette"):
        spec.decode(np.array([[[1, 0, 0], [1, 0, 0]]], np.uint8), "m.png")


def test_nonsense_is_refused_when_it_is_built():
    with pytest.raises(ValueError, match=r"repeated: \['a'\]"):
        LabelSpec(("a", "a"))
    with pytest.raises(ValueError, match="2 colours for 1 names"):
        LabelSpec(("a",), made_up_palette(2))
    with pytest.raises(ValueError, match="they must agree"):
        from_values({0: "road"}, {"rod": (0, 0, 0)})
    with pytest.raises(ValueError, match="254 do"):
        from_values(dict(enumerate(map(str, range(255)))))


def test_a_spec_survives_pickling_before_and_after_use():
    spec = LabelSpec(("a", "b"), table={7: 0, 9: 1})
    for _ in range(2):
        copy = pickle.loads(pickle.dumps(spec))
        assert copy.decode(as_mask(7, 9), "m.png").tolist() == spec.decode(as_mask(7, 9), "m.png").tolist() == [[0, 1]]


def test_made_up_colours_differ():
    assert len(set(made_up_palette(1000))) == 1000
    assert made_up_palette(21)[20] == (0, 64, 128)  # VOC's tv monitor


def test_ranges_are_short():
    assert ranges([3, 0, 1, 2, 7, 255]) == "0..3, 7, 255"
