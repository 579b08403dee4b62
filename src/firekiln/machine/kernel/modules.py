"""Kernel modules: what each depends on, and an order in which they can be loaded.

A package that was never installed has no modules.dep (depmod writes it), so the dependencies are read where depmod
itself finds the names: in the `.modinfo` section of each module, a list of `key=value` strings, NUL between them.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Mapping

from firekiln.errors import MachineError


def modinfo(module: bytes) -> dict[str, str]:
    """The `.modinfo` of a module (ELF, 64-bit, little-endian), the last of each key. MachineError where it has none."""
    try:
        return _parse(_section(module, b".modinfo"))
    except (struct.error, IndexError, ValueError) as error:
        raise MachineError("a kernel module is not a 64-bit ELF file with a .modinfo section") from error


def dependencies(module: bytes) -> tuple[str, ...]:
    """Names of the modules that `module` needs, in its own order, with `_` for `-` as the kernel has them."""
    return tuple(normal(name) for name in modinfo(module).get("depends", "").split(",") if name)


def normal(name: str) -> str:
    """A module's name as the kernel knows it: files may be spelt with `-`."""
    return name.replace("-", "_")


def load_order(wanted: Iterable[str], depends: Mapping[str, Iterable[str]]) -> tuple[str, ...]:
    """`wanted` and all that they need, each once, dependencies first; what `depends` does not hold is built in."""
    order: dict[str, None] = {}
    trail: list[str] = []

    def visit(name: str) -> None:
        if name in order or name not in depends:
            return
        if name in trail:
            raise MachineError(f"kernel modules depend on each other in a circle: {' → '.join([*trail, name])}")
        trail.append(name)
        for needed in depends[name]:
            visit(needed)
        trail.pop()
        order[name] = None

    for name in wanted:
        visit(normal(name))
    return tuple(order)


def _section(elf: bytes, wanted: bytes) -> bytes:
    if elf[:6] != b"\x7fELF\x02\x01":
        raise ValueError("not ELF")
    (table,) = struct.unpack_from("<Q", elf, 0x28)
    entry_size, count, names_index = struct.unpack_from("<HHH", elf, 0x3A)
    headers = [struct.unpack_from("<IIQQQQ", elf, table + entry_size * index) for index in range(count)]
    names = headers[names_index][4]
    for name, _type, _flags, _address, offset, size in headers:
        start = names + name
        if elf[start : start + len(wanted) + 1] == wanted + b"\0":
            return elf[offset : offset + size]
    raise ValueError("no such section")


def _parse(section: bytes) -> dict[str, str]:
    pairs = (line.decode(errors="replace").partition("=") for line in section.split(b"\0") if b"=" in line)
    return {key: value for key, _, value in pairs}
