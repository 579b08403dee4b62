"""`firekiln.values.dataclass` is held against the standard library's: the same declarations, the same behaviour."""

from __future__ import annotations

import copy
import dataclasses
import pickle
import sys
from typing import ClassVar

import pytest

from firekiln import values


def _declare(dataclass):
    @dataclass(frozen=True, slots=True, kw_only=True)
    class Point:
        x: int
        y: int = 2
        tags: list[str] = dataclasses.field(default_factory=list)
        secret: str = dataclasses.field(default="", repr=False, compare=False)
        kind: ClassVar[str] = "point"

    @dataclass(frozen=True, slots=True, kw_only=True)
    class Named(Point):
        name: str
        y: int = 3

        def __post_init__(self) -> None:
            if not self.name:
                raise ValueError("nameless")

    @dataclass(slots=True, kw_only=True, eq=False)
    class Counter:
        count: int = 0

    @dataclass(frozen=True, slots=True, kw_only=True)
    class Empty:
        pass

    return {"Point": Point, "Named": Named, "Counter": Counter, "Empty": Empty}


@pytest.fixture(params=[values.dataclass, dataclasses.dataclass], ids=["ours", "standard"])
def made(request):
    return _declare(request.param)


def test_fields_have_their_values_their_defaults_or_fresh_ones(made):
    one, other = made["Point"](x=1), made["Point"](x=1, y=5, tags=["a"])
    assert (one.x, one.y, one.tags, one.secret, one.kind) == (1, 2, [], "", "point")
    assert (other.y, other.tags) == (5, ["a"])
    assert one.tags is not made["Point"](x=1).tags


def test_a_subclass_adds_fields_and_changes_defaults(made):
    assert made["Named"](x=1, name="n").y == 3
    with pytest.raises(ValueError, match="nameless"):
        made["Named"](x=1, name="")


@pytest.mark.parametrize("arguments", [{}, {"x": 1, "z": 1}, {"y": 1}])
def test_missing_and_unknown_fields_are_refused(made, arguments):
    with pytest.raises(TypeError):
        made["Point"](**arguments)


def test_fields_are_given_by_name(made):
    with pytest.raises(TypeError):
        made["Point"](1)


def test_a_frozen_value_cannot_be_changed(made):
    point = made["Point"](x=1)
    with pytest.raises(dataclasses.FrozenInstanceError):
        point.x = 2
    with pytest.raises(dataclasses.FrozenInstanceError):
        del point.x
    counter = made["Counter"]()
    counter.count = 2
    assert counter.count == 2


def test_there_is_no_place_for_what_is_no_field(made):
    assert not hasattr(made["Named"](x=1, name="n"), "__dict__")
    with pytest.raises(AttributeError):
        made["Counter"]().other = 1


def test_values_are_equal_by_class_and_compared_fields(made):
    point, named = made["Point"], made["Named"]
    assert point(x=1) == point(x=1, secret="s")
    assert point(x=1) != point(x=2)
    assert point(x=1, y=3) != named(x=1, name="n")
    assert made["Empty"]() == made["Empty"]()
    assert made["Counter"]() != made["Counter"]()


def test_equal_values_have_one_hash(made):
    point = made["Point"]
    assert hash(point(x=1, tags=(1,))) == hash(point(x=1, tags=(1,), secret="s"))
    assert len({made["Empty"](), made["Empty"]()}) == 1
    counter = made["Counter"]()
    assert {counter: 1}[counter] == 1


def test_the_repr_leaves_out_what_it_is_told_to(made):
    text = repr(made["Named"](x=1, name="n", secret="hush"))
    assert text.endswith("Named(x=1, y=3, tags=[], name='n')")


def test_the_standard_library_knows_the_fields(made):
    named = made["Named"](x=1, name="n", tags=["a"])
    assert dataclasses.is_dataclass(named)
    assert [item.name for item in dataclasses.fields(named)] == ["x", "y", "tags", "secret", "name"]
    assert dataclasses.replace(named, x=7) == made["Named"](x=7, name="n", tags=["a"])
    if sys.version_info >= (3, 13):
        assert copy.replace(named, x=7) == dataclasses.replace(named, x=7)
    assert dataclasses.asdict(named) == {"x": 1, "y": 3, "tags": ["a"], "secret": "", "name": "n"}


def test_values_can_be_copied(made):
    point = made["Point"](x=1, tags=["a"])
    assert copy.copy(point) == point
    assert copy.deepcopy(point).tags is not point.tags


@values.dataclass(frozen=True, slots=True, kw_only=True)
class Pickled:
    x: int


def test_values_can_be_pickled():
    assert pickle.loads(pickle.dumps(Pickled(x=1))) == Pickled(x=1)


def test_a_class_without_slots_or_names_is_refused():
    with pytest.raises(TypeError, match="slots"):
        values.dataclass(slots=False, kw_only=True)
