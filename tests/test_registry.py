from typing import Annotated, get_args

import pytest

from segtrain.registry import Registry, parameters

INNER = Registry("inner")
OUTER = Registry("outer", includes=(INNER,))


@INNER.register("square")
class Square:
    def __init__(self, task: str, *, side: float = 1.0, inner: Annotated[object, INNER] = None) -> None:
        pass


@OUTER.register("circle")
def circle(task: str, *, radius: float) -> None:
    pass


def test_names_are_found_in_included_registries():
    assert OUTER["square"] is Square
    assert list(OUTER) == ["circle", "square"]
    assert "square" in OUTER
    assert "circle" not in INNER


def test_an_unknown_name_is_a_key_error():
    with pytest.raises(KeyError):
        OUTER["oval"]


def test_a_name_is_given_once():
    with pytest.raises(ValueError, match="outer 'square' is registered twice"):
        OUTER.register("square")(circle)


def test_the_keys_of_a_component_are_its_keyword_only_parameters():
    found = parameters(Square)
    assert list(found) == ["side", "inner"]
    assert found["side"].annotation is float
    assert get_args(found["inner"].annotation)[1] is INNER
    assert list(parameters(circle)) == ["radius"]
