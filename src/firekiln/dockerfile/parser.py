"""A Dockerfile's text becomes nodes, one per instruction: BuildKit's parser (frontend 1.26), rule by rule.

What an instruction means is not asked here: an unknown keyword is a node like any other (see `convert.py`).
"""

from __future__ import annotations

from dataclasses import field, replace

from firekiln.dockerfile.arguments import Arguments, parse_arguments, split_instruction
from firekiln.dockerfile.directives import Directive, DirectiveReader, find_directives
from firekiln.dockerfile.heredoc import Heredoc, heredocs_of
from firekiln.dockerfile.text import SPACE, decode, encode, sound, span_of
from firekiln.errors import DockerfileError, Location
from firekiln.values import dataclass

MAX_LINE = 65_535
"""Bytes of one line, its end left out. BuildKit's limit: that of its scanner."""

MAX_SIZE = 16 * 2**20
"""Bytes of a file. BuildKit's limit too."""

MAX_INSTRUCTIONS = 10_000
"""Ours, as the limits below: far above what people write, and read within a second."""

MAX_INSTRUCTION = 2**20
"""Characters of one instruction, its lines joined. Linux takes 128 KiB as one argument of a process."""

MAX_LINES = 250_000
"""Lines of a file."""

MAX_HEREDOC_OPENERS = 2**19
"""Characters, in all, of instructions that may open heredocs: their words must be found with care."""

MAX_ONBUILD_DEPTH = 100
"""More than one is refused later, as in BuildKit."""

_HEREDOC_INSTRUCTIONS = frozenset({"add", "copy", "run"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """One instruction.

    `keyword` is as written. `original` is the whole line, continuations joined, heredocs left out. `flags` are its
    builder flags, unquoted; None where nothing follows the keyword. `args` are its words as the instruction's syntax
    has them (ENV and LABEL: triples of name, value and separator). `sub` is ONBUILD's trigger; it has no place of its
    own: lines 0. `comments` are those since the instruction before (or an empty comment), without `#`; None where
    there is none.
    """

    keyword: str
    original: str
    flags: tuple[str, ...] | None = None
    args: tuple[str, ...] = ()
    json: bool = False
    heredocs: tuple[Heredoc, ...] = ()
    start: int = 0
    end: int = 0
    sub: Node | None = None
    comments: tuple[str, ...] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ParseWarning:
    """What BuildKit's parser warns of: empty lines within an instruction. `line` is the instruction's last."""

    message: str
    line: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Syntax:
    """A parsed file. `source` is its text, the byte-order mark included; `directives` are by name."""

    file: str
    source: str
    escape: str
    nodes: tuple[Node, ...]
    warnings: tuple[ParseWarning, ...] = ()
    directives: dict[str, Directive] = field(default_factory=dict)

    def location(self, node: Node) -> Location:
        return Location(file=self.file, start=node.start, end=node.end)


def parse_syntax(text: str | bytes, *, file: str = "Dockerfile") -> Syntax:
    """The nodes of a file. DockerfileError where BuildKit's parser refuses it, or a limit is passed."""
    if len(text) > MAX_SIZE:
        raise DockerfileError(f"{file}: the Dockerfile exceeds the maximum allowed size of {MAX_SIZE} bytes")
    source = decode(text) if isinstance(text, bytes) else sound(text)
    if source.count("\n") > MAX_LINES:
        raise DockerfileError(f"{file}: the Dockerfile has more than {MAX_LINES} lines")
    return _Parser(source, file).parse()


class _Parser:
    def __init__(self, source: str, file: str) -> None:
        self._source, self._file = source, file
        self._lines = source.removeprefix("\ufeff").split("\n")
        if not self._lines[-1]:
            self._lines.pop()
        self._too_long = next((at for at, line in enumerate(self._lines) if _is_too_long(line)), None)
        if self._too_long is not None:
            del self._lines[self._too_long :]
        self._at = 0  # lines read so far: the number of the last one read
        self._opener_chars = 0
        self._escape = "\\"
        self._directives = DirectiveReader()
        self._comments: list[str] | None = None
        self._nodes: list[Node] = []
        self._warnings: list[ParseWarning] = []

    def parse(self) -> Syntax:
        while self._at < len(self._lines):
            self._parse_instruction()
            if len(self._nodes) > MAX_INSTRUCTIONS:
                raise self._error(f"more than {MAX_INSTRUCTIONS} instructions", self._at)
        if self._too_long is not None:
            raise self._too_long_error(self._too_long)
        if not self._nodes:
            raise DockerfileError("file with no instructions", source=self._source)
        return Syntax(
            file=self._file,
            source=self._source,
            escape=self._escape,
            nodes=tuple(self._nodes),
            warnings=tuple(self._warnings),
            directives=find_directives(self._source),
        )

    def _parse_instruction(self) -> None:
        """Read on, by one empty line or comment, or by one instruction."""
        line, ended = self._trim_continuation(self._first_line())
        if ended and not line:
            return
        start = self._at
        line = line if ended else self._join(line)
        if len(line) > MAX_INSTRUCTION:
            raise self._error(f"an instruction of more than {MAX_INSTRUCTION} characters", start)
        try:
            node = self._node(line)
            opened = self._heredocs(line) if "<<" in line and _may_have_heredocs(node) else []
        except ValueError as error:
            raise self._error(str(error), start, self._at, span=span_of(error)) from None
        heredocs = tuple(self._read_heredoc(heredoc, start) for heredoc in opened)
        comments = None if self._comments is None else tuple(self._comments)
        self._nodes.append(replace(node, start=start, end=self._at, heredocs=heredocs, comments=comments))
        self._comments = None

    def _first_line(self) -> str:
        """The next line with what it is for comments and directives settled; "" where it is a comment."""
        raw = self._next_line()
        line = raw.rstrip("\r\n").lstrip(SPACE)
        is_comment = line.startswith("#")
        if is_comment:
            self._take_comment(raw[1:].strip(SPACE))
        if self._take_directive(line) and self._comments:
            self._comments.pop()
        return "" if is_comment else line

    def _take_comment(self, comment: str) -> None:
        """Keep a comment for the next instruction. An empty one parts those before from it; an empty line doesn't."""
        if not comment:
            self._comments = None
        elif self._comments is None:
            self._comments = [comment]
        else:
            self._comments.append(comment)

    def _join(self, line: str) -> str:
        """Put the continuation lines behind the first one; their comments vanish, their empty lines are warned of."""
        parts, ended, has_empty_line = [line], False, False
        size = len(line)
        while not ended and self._at < len(self._lines) and size <= MAX_INSTRUCTION:
            raw = self._next_line().rstrip("\r\n")
            self._take_directive(raw)
            bare = raw.lstrip(SPACE)
            if not bare:
                has_empty_line = True
            elif not bare.startswith("#"):
                part, ended = self._trim_continuation(raw)
                parts.append(part)
                size += len(part)
        joined = "".join(parts)
        if has_empty_line:
            warning = ParseWarning(message=f"Empty continuation line found in: {joined}", line=self._at)
            self._warnings.append(warning)
        return joined

    def _heredocs(self, line: str) -> list[Heredoc]:
        self._opener_chars += len(line)
        if self._opener_chars > MAX_HEREDOC_OPENERS:
            raise ValueError(f"instructions with heredocs of more than {MAX_HEREDOC_OPENERS} characters in all")
        return heredocs_of(line)

    def _read_heredoc(self, heredoc: Heredoc, start: int) -> Heredoc:
        content: list[str] = []
        while self._at < len(self._lines):
            raw = self._next_line()
            line = raw.rstrip("\r\n")
            if (line.lstrip("\t") if heredoc.chomp else line) == heredoc.name:
                return replace(heredoc, content="".join(content))
            content += (raw, "\n")
        if self._too_long is not None:
            raise self._too_long_error(self._too_long)
        raise self._error(
            "unterminated heredoc", start, self._at, hint=f"a line that is {heredoc.name!r} and nothing else ends it"
        )

    def _node(self, line: str, depth: int = 0) -> Node:
        keyword, flags, rest = split_instruction(line)
        lower, sub, arguments = keyword.lower(), None, Arguments()
        if lower == "onbuild":
            if depth > MAX_ONBUILD_DEPTH:
                raise ValueError(f"ONBUILD nested more than {MAX_ONBUILD_DEPTH} times")
            sub = self._node(rest, depth + 1) if rest else None
        else:
            arguments = parse_arguments(lower, rest, self._escape)
        return Node(keyword=keyword, original=line, flags=flags, args=arguments.words, json=arguments.json, sub=sub)

    def _next_line(self) -> str:
        self._at += 1
        return self._lines[self._at - 1]

    def _take_directive(self, line: str) -> bool:
        if self._directives.done:
            return False
        try:
            directive = self._directives.read(line, self._at)
            if directive is not None and directive.name == "escape":
                self._set_escape(directive.value)
        except ValueError as error:
            raise self._error(str(error), self._at) from None
        return directive is not None

    def _set_escape(self, token: str) -> None:
        if token not in ("\\", "`"):
            raise ValueError(f"invalid escape token '{token}' does not match ` or \\")
        self._escape = token

    def _trim_continuation(self, line: str) -> tuple[str, bool]:
        """The line without its continuation mark, and whether the instruction ends with it.

        An escaped escape is none; of three in a row the last two are not looked at further, as in BuildKit.
        """
        stripped = line.rstrip(" \t")
        if not stripped.endswith(self._escape) or stripped.endswith(self._escape * 2):
            return line, True
        return stripped[:-1], False

    def _too_long_error(self, index: int) -> DockerfileError:
        return self._error(f"dockerfile line greater than max allowed size of {MAX_LINE}", index + 1)

    def _error(
        self, message: str, start: int, end: int | None = None, *, span: str | None = None, hint: str | None = None
    ) -> DockerfileError:
        location = Location(file=self._file, start=start, end=end or start)
        return DockerfileError(message, location=location, source=self._source, span=span, hint=hint)


def _is_too_long(line: str) -> bool:
    # No character has more than four bytes: most lines need not be encoded to know.
    return len(line) > MAX_LINE // 4 and len(encode(line)) > MAX_LINE


def _may_have_heredocs(node: Node) -> bool:
    if node.keyword.lower() == "onbuild" and node.sub is not None:
        node = node.sub
    return node.keyword.lower() in _HEREDOC_INSTRUCTIONS and not node.json
