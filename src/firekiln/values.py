"""`dataclass`, for the modules that every command loads: the standard library's, but cheap to declare.

The standard library writes the source of each class's methods and compiles it when the class is made: 0.39 ms a class
of CPython 3.11, half of what importing the builder took. Here all classes share their methods: 0.06 ms. For
`dataclasses.fields`, `replace` and `asdict` what comes out is a data class, for type checkers it is made by the
standard library. An instance takes 15 % longer to make: where they come by the hundred thousand, as a Tree's nodes do,
`numerous` is the better one: the standard library's, but `frozen` for type checkers only, since a frozen class takes
three times as long to write its slots.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import _FIELD as ORDINARY  # type: ignore[attr-defined] # by it `dataclasses.fields` knows a field
from dataclasses import MISSING, Field, FrozenInstanceError, field, replace
from dataclasses import dataclass as standard
from operator import attrgetter
from typing import TYPE_CHECKING, Any, NoReturn, TypeAlias

__all__ = ["dataclass", "numerous"]

_Fields: TypeAlias = dict[str, Field[Any]]

_UNCOPIED = ("__dict__", "__weakref__")
"""What a class without slots has for its instances' sake."""


def _dataclass(*, slots: bool, kw_only: bool, frozen: bool = False, eq: bool = True) -> Callable[[type], type]:
    """As `dataclasses.dataclass`. Both `slots` and `kw_only` have to be true, and `__init__` takes every field."""
    if not (slots and kw_only):
        raise TypeError("values have slots, and their fields are given by name")
    return lambda cls: _made(cls, frozen=frozen, eq=eq)


def _made(cls: type, *, frozen: bool, eq: bool) -> type:
    """A class like `cls` with slots for its fields: they can't be added to one that is made."""
    own = _declared(cls)
    inherited: _Fields = {}
    for base in reversed(cls.__mro__[1:]):
        inherited |= vars(base).get("__dataclass_fields__", {})
    fields = inherited | own
    members = {name: value for name, value in vars(cls).items() if name not in own and name not in _UNCOPIED}
    members |= {
        "__slots__": tuple(name for name in own if name not in inherited),
        "__match_args__": (),
        "__dataclass_fields__": fields,
        "__reduce__": _reduce,
        "__replace__": replace,  # for `copy.replace`, from Python 3.13 on
    }
    members.setdefault("__repr__", _repr)
    if frozen:
        members |= {"__setattr__": _refuse, "__delattr__": _refuse}
    if eq:
        members |= _comparing([name for name, item in fields.items() if item.compare], frozen=frozen)
    made: Any = type(cls)(cls.__name__, cls.__bases__, members)
    made.__qualname__ = cls.__qualname__
    made.__init__ = _initializer(made, fields)
    return made  # type: ignore[no-any-return] # a class


def _declared(cls: type) -> _Fields:
    """The fields that the class itself declares, by name. Annotations are text: `from __future__ import …`."""
    made: _Fields = {}
    for name, kind in cls.__annotations__.items():
        if kind.startswith("ClassVar"):
            continue
        value = vars(cls).get(name, MISSING)
        item: Any = value if isinstance(value, Field) else field(default=value)
        item.name, item.type, item.kw_only = name, kind, True
        item._field_type = ORDINARY  # noqa: SLF001 - no constructor sets it
        made[name] = item
    return made


def _initializer(cls: type, fields: _Fields) -> Callable[..., None]:
    """`__init__`. It writes through the slots themselves, which a frozen class's `__setattr__` does not guard."""
    rows = [(name, getattr(cls, name).__set__, item.default, item.default_factory) for name, item in fields.items()]
    after: Callable[[object], None] | None = getattr(cls, "__post_init__", None)

    def __init__(self: object, /, **values: Any) -> None:  # noqa: N807 - what tracebacks shall call it
        for name, write, default, factory in rows:
            if name in values:
                write(self, values.pop(name))
            elif default is not MISSING:
                write(self, default)
            elif factory is not MISSING:
                write(self, factory())
            else:
                raise TypeError(f"{cls.__qualname__}() wants {name}")
        if values:
            raise TypeError(f"{cls.__qualname__}() knows no {', '.join(values)}")
        if after is not None:
            after(self)

    return __init__


def _comparing(names: Sequence[str], *, frozen: bool) -> Mapping[str, Any]:
    """`__eq__` and `__hash__` by the fields `names`."""
    values: Callable[[Any], object] = attrgetter(*names) if names else type

    def __eq__(self: object, other: object) -> bool:  # noqa: N807 - as above
        return values(self) == values(other) if other.__class__ is self.__class__ else NotImplemented

    def __hash__(self: object) -> int:  # noqa: N807 - as above
        return hash(values(self))

    return {"__eq__": __eq__, "__hash__": __hash__ if frozen else None}


def _repr(self: Any) -> str:
    shown = (f"{name}={getattr(self, name)!r}" for name, item in self.__dataclass_fields__.items() if item.repr)
    return f"{type(self).__qualname__}({', '.join(shown)})"


def _refuse(self: object, name: str, *_value: object) -> NoReturn:
    raise FrozenInstanceError(f"cannot change {name} of a {type(self).__qualname__}")


def _reduce(self: Any) -> tuple[Callable[..., object], tuple[type, dict[str, Any]]]:
    """For `copy` and `pickle`."""
    return _restored, (type(self), {name: getattr(self, name) for name in self.__dataclass_fields__})


def _restored(cls: type, values: Mapping[str, Any]) -> object:
    return cls(**values)


def _numerous(*, frozen: bool = False, eq: bool = True, **options: bool) -> Callable[[type], type]:
    return standard(eq=eq, unsafe_hash=frozen and eq, **options)


if TYPE_CHECKING:
    from dataclasses import dataclass
    from dataclasses import dataclass as numerous
else:
    dataclass = _dataclass
    numerous = _numerous
