"""Names for machines that were given none: an adjective and somebody who worked with fire, clay, glass or machines."""

from __future__ import annotations

import re

from firekiln.errors import UsageError

_ADJECTIVES = (
    "amber ardent bold brave bright brisk calm candid clever cosy crisp dapper deft eager earnest fair fearless fine "
    "gentle glad glazed glowing golden hardy hearty jolly keen kind lively loyal lucid mellow merry mild nimble noble "
    "patient placid plucky polite proud quick quiet radiant ready serene sharp silver smart snug sober spry steady "
    "stout sturdy sunny swift tidy tranquil trusty upbeat vivid warm wise witty zesty"
).split()
_SURNAMES = (
    "agnesi babbage bessemer bottger boulton brunel carnot cooper crompton daimler darby davy diesel edison ericsson "
    "faraday fulton germain goodyear grove hamada heron hopper huygens jacquard jenkins joule kelvin leach lovelace "
    "maudslay meissen morse newcomen noether otto palissy papin parsons pascal perkin planck rankine rie rumford "
    "savery siemens smeaton spode stephenson stirling tesla thomson torricelli trevithick turing vaucanson volta watt "
    "wedgwood whitworth wright zuse"
).split()
_VALID = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.-]+")


def random_name() -> str:
    """Such as `steady_wedgwood`. Two machines may be given one name: the caller tries again."""
    import secrets  # noqa: PLC0415 - brings libcrypto: 3 MB that a supervisor can do without

    return f"{secrets.choice(_ADJECTIVES)}_{secrets.choice(_SURNAMES)}"


def random_id() -> str:
    """A machine's id: 64 hexadecimal digits, of which people see 12."""
    import secrets  # noqa: PLC0415 - as above

    return secrets.token_hex(32)


def check_name(name: str) -> str:
    """`name` itself. UsageError where Docker would refuse it."""
    if not _VALID.fullmatch(name):
        raise UsageError(
            f"Invalid container name ({name}), only [a-zA-Z0-9][a-zA-Z0-9_.-] are allowed",
            hint="give --name two or more letters, digits, '_', '.' or '-', a letter or digit first",
        )
    return name
