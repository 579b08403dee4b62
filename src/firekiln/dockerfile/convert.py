"""Nodes become typed instructions, with the checks that BuildKit makes before any stage is looked at.

The functions for each instruction raise ValueError with BuildKit's reason; `convert_node` gives it its place.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any, Final, TypeAlias

from firekiln.dockerfile import instructions as df
from firekiln.dockerfile.durations import parse_duration
from firekiln.dockerfile.flags import KNOWN, Flags, parse_flags
from firekiln.dockerfile.heredoc import parse_heredoc
from firekiln.dockerfile.mounts import check_mount, parse_device
from firekiln.dockerfile.parser import Node, Syntax, parse_syntax
from firekiln.dockerfile.suggestions import did_you_mean, nearest
from firekiln.dockerfile.text import ASCII_SPACE, SPACE, MalformedError, span_of
from firekiln.errors import DockerfileError, Location
from firekiln.values import dataclass

_STAGE_NAME = re.compile(r"[a-z][a-z0-9\-_.]*")
_ONBUILD = re.compile(rf"[{ASCII_SPACE}]*onbuild[{ASCII_SPACE}]*", re.IGNORECASE)
_NETWORKS = ("default", "none", "host")
_SECURITY = ("sandbox", "insecure")
_MIN_INTERVAL = 10**6


def parse_dockerfile(text: str | bytes, *, file: str = "Dockerfile") -> df.Dockerfile:
    """A file's text, read, converted and sorted into stages. DockerfileError where BuildKit refuses it."""
    return convert_syntax(parse_syntax(text, file=file))


def convert_syntax(syntax: Syntax) -> df.Dockerfile:
    """The instructions of a parsed file, in stages."""
    global_args: list[df.Arg] = []
    stages: list[tuple[df.From, list[df.Instruction]]] = []
    for node in syntax.nodes:
        instruction = convert_node(node, location=syntax.location(node), source=syntax.source)
        if isinstance(instruction, df.From):
            stages.append((instruction, []))
        elif stages:
            stages[-1][1].append(instruction)
        elif isinstance(instruction, df.Arg):
            global_args.append(instruction)
        else:
            raise DockerfileError(
                f"no build stage in current context: {instruction.name} stands before the first FROM",
                location=instruction.location,
                source=syntax.source,
                hint="only ARG may stand before FROM",
            )
    if not stages:
        raise DockerfileError("the Dockerfile contains no stage to build: there is no FROM", source=syntax.source)
    directives = syntax.directives
    return df.Dockerfile(
        file=syntax.file,
        source=syntax.source,
        escape=syntax.escape,
        global_args=tuple(global_args),
        stages=tuple(_stage(index, base, rest) for index, (base, rest) in enumerate(stages)),
        syntax=directives["syntax"].value if "syntax" in directives else None,
        check=directives["check"].value if "check" in directives else None,
    )


def convert_node(node: Node, *, location: Location, source: str | None = None) -> df.From | df.Instruction:
    """One instruction. DockerfileError, with `location` and `source`, where it is unknown or malformed."""
    rule = RULES.get(node.keyword.lower())
    if rule is None:
        raise DockerfileError(
            f"unknown instruction: {node.keyword}{_keyword_meant(node.keyword)}",
            location=location,
            source=source,
            span=node.keyword,
        )
    try:
        return rule(_Request(node=node, location=location))
    except ValueError as error:
        raise DockerfileError(str(error), location=location, source=source, span=span_of(error)) from None


def parse_trigger(text: str, location: Location) -> df.Instruction:
    """The instruction of an ONBUILD's `expression`. It stands where `location` says, the FROM that brings it in.

    DockerfileError where `text`, which may come from a foreign image, is not exactly one instruction of a stage.
    """
    try:
        nodes = parse_syntax(text).nodes
        instruction = convert_node(nodes[0], location=location)
    except DockerfileError as error:
        message = f"the base's ONBUILD trigger is refused: {error.message}"
        raise DockerfileError(message, location=location, source=text, span=error.span) from None
    if len(nodes) != 1:
        raise DockerfileError(f"an ONBUILD trigger must be one instruction, not {len(nodes)}", location=location)
    if isinstance(instruction, df.From | df.OnBuild | df.Maintainer):
        raise DockerfileError(f"{instruction.name} isn't allowed as an ONBUILD trigger", location=location)
    return instruction


# --- what all share -------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class _Request:
    node: Node
    location: Location

    @property
    def args(self) -> tuple[str, ...]:
        return self.node.args

    @property
    def common(self) -> dict[str, Any]:
        """The fields that every instruction has."""
        return {"location": self.location, "original": self.node.original, "comments": self.node.comments or ()}

    def flags(self) -> Flags:
        """Those that were given. Refuse all but the instruction's own."""
        return parse_flags(self.node.flags or (), KNOWN.get(self.node.keyword.lower(), {}))

    def one(self, name: str) -> str:
        if len(self.args) != 1:
            raise ValueError(f"{name} requires exactly one argument")
        return self.args[0]

    def some(self, name: str) -> tuple[str, ...]:
        if not self.args:
            raise ValueError(f"{name} requires at least one argument")
        return self.args

    def command(self, args: tuple[str, ...]) -> tuple[str, ...]:
        """An exec form's argv; a shell form's line as the one element, or none."""
        return args if self.node.json or not args else (" ".join(args),)

    def comment(self, name: str) -> str:
        """The description in a comment `# name description`."""
        start = f"{name} "
        return next((line[len(start) :] for line in self.node.comments or () if name and line.startswith(start)), "")


_Rule: TypeAlias = Callable[[_Request], df.From | df.Instruction]


def _stage(index: int, base: df.From, rest: list[df.Instruction]) -> df.Stage:
    name = (base.alias or "").lower()
    start = f"{name} "
    comment = next((line[len(start) :] for line in base.comments if name and line.startswith(start)), "")
    return df.Stage(index=index, name=name, base=base, instructions=tuple(rest), comment=comment)


def _keyword_meant(keyword: str) -> str:
    match = nearest(keyword.lower(), RULES)
    if match is None:
        return ""
    return f" (did you mean {match if keyword == keyword.lower() else match.upper()}?)"


# --- one function per instruction: the order of its checks is BuildKit's --------------------------------------------


def _from(request: _Request) -> df.From:
    args, alias = request.args, None
    if len(args) == 3 and args[1].casefold() == "as":
        alias = args[2]
        if not _STAGE_NAME.fullmatch(alias.lower()):
            message = f'invalid name for build stage: "{alias}", name can\'t start with a number or contain symbols'
            raise MalformedError(message, span=alias)
    elif len(args) != 1:
        raise ValueError("FROM requires either one or three arguments")
    flags = request.flags()
    return df.From(image=args[0], alias=alias, platform=flags.string("platform"), **request.common)


def _arg(request: _Request) -> df.Arg:
    made = []
    for word in request.some("ARG"):
        key, separator, value = word.partition("=")
        if separator and not key:
            raise ValueError("ARG names can not be blank")
        made.append(df.ArgDefault(key=key, value=value if separator else None, comment=request.comment(key)))
    return df.Arg(args=tuple(made), **request.common)


def _env(request: _Request) -> df.Env:
    request.flags()
    return df.Env(env=_pairs(request, "ENV"), **request.common)


def _label(request: _Request) -> df.Label:
    request.flags()
    return df.Label(labels=_pairs(request, "LABEL"), **request.common)


def _pairs(request: _Request, name: str) -> tuple[df.KeyValue, ...]:
    args = request.some(name)
    triples = zip(args[::3], args[1::3], args[2::3], strict=True)
    pairs = tuple(df.KeyValue(key=key, value=value, no_delim=not separator) for key, value, separator in triples)
    if not all(pair.key for pair in pairs):
        raise ValueError(f"{name} names can not be blank")
    return pairs


def _maintainer(request: _Request) -> df.Maintainer:
    name = request.one("MAINTAINER")
    request.flags()
    return df.Maintainer(maintainer=name, **request.common)


def _run(request: _Request) -> df.Run:
    flags = request.flags()
    _check_each(flags.strings("device"), parse_device)
    _check_each(flags.strings("mount"), check_mount)
    network, security = flags.string("network", "default"), flags.string("security", "sandbox")
    if network not in _NETWORKS:
        reason = f'invalid network mode "{network}"{did_you_mean(network, _NETWORKS)}'
        raise MalformedError(reason, span=network)
    if security not in _SECURITY:
        reason = f'security "{security}" is not valid{did_you_mean(security, _SECURITY)}'
        raise MalformedError(reason, span=security)
    return df.Run(
        command=_command_line(request),
        mounts=flags.strings("mount"),
        network=network,
        security=security,
        devices=flags.strings("device"),
        **request.common,
    )


def _check_each(values: tuple[str, ...], check: Callable[[str], object]) -> None:
    for value in values:
        try:
            check(value)
        except ValueError as error:
            raise MalformedError(str(error), span=value) from None


def _cmd(request: _Request) -> df.Cmd:
    request.flags()
    return df.Cmd(command=_command_line(request), **request.common)


def _entrypoint(request: _Request) -> df.Entrypoint:
    request.flags()
    return df.Entrypoint(command=_command_line(request), **request.common)


def _command_line(request: _Request) -> df.CommandLine:
    args = request.command(request.args)
    return df.CommandLine(args=args, shell=not request.node.json, files=request.node.heredocs)


def _copy(request: _Request) -> df.Copy:
    _need_destination(request, "COPY")
    flags = request.flags()
    return df.Copy(
        sources=_sources(request, "COPY"),
        source=flags.string("from"),
        chown=flags.string("chown"),
        chmod=flags.string("chmod"),
        link=flags.switch("link"),
        parents=flags.switch("parents"),
        exclude=flags.strings("exclude"),
        **request.common,
    )


def _add(request: _Request) -> df.Add:
    _need_destination(request, "ADD")
    flags = request.flags()
    return df.Add(
        sources=_sources(request, "ADD"),
        chown=flags.string("chown"),
        chmod=flags.string("chmod"),
        link=flags.switch("link"),
        exclude=flags.strings("exclude"),
        checksum=flags.string("checksum"),
        keep_git_dir=flags.optional_switch("keep-git-dir"),
        unpack=flags.optional_switch("unpack"),
        **request.common,
    )


def _need_destination(request: _Request, name: str) -> None:
    if len(request.args) < 2:
        shortage = ", but only one was provided. Destination could not be determined" if request.args else ""
        raise ValueError(f"{name} requires at least two arguments{shortage}")


def _sources(request: _Request, name: str) -> df.Sources:
    *sources, dest = request.args
    if parse_heredoc(dest) is not None:
        raise ValueError(f"{name} cannot accept a heredoc as a destination")
    # Of two heredocs with one name the last wins for both. A JSON form has words like heredocs, but no content.
    contents = {heredoc.name: heredoc.data for heredoc in request.node.heredocs}
    paths: list[str] = []
    files: list[df.SourceContent] = []
    for source in sources:
        heredoc = parse_heredoc(source)
        if heredoc is None:
            paths.append(source)
        else:
            data = contents.get(heredoc.name, "")
            files.append(df.SourceContent(path=heredoc.name, data=data, expand=heredoc.expand))
    return df.Sources(paths=tuple(paths), dest=dest, contents=tuple(files))


def _user(request: _Request) -> df.User:
    user = request.one("USER")
    request.flags()
    return df.User(user=user, **request.common)


def _workdir(request: _Request) -> df.Workdir:
    path = request.one("WORKDIR")
    request.flags()
    return df.Workdir(path=path, **request.common)


def _expose(request: _Request) -> df.Expose:
    ports = request.some("EXPOSE")
    request.flags()
    return df.Expose(ports=tuple(sorted(ports)), **request.common)


def _volume(request: _Request) -> df.Volume:
    words = request.some("VOLUME")
    request.flags()
    paths = tuple(word.strip(SPACE) for word in words)
    if not all(paths):
        raise ValueError("VOLUME specified can not be an empty string")
    return df.Volume(paths=paths, **request.common)


def _stop_signal(request: _Request) -> df.StopSignal:
    return df.StopSignal(signal=request.one("STOPSIGNAL"), **request.common)


def _shell(request: _Request) -> df.Shell:
    request.flags()
    words = request.some("SHELL")
    if not request.node.json:
        raise ValueError("SHELL requires the arguments to be in JSON form")
    return df.Shell(shell=words, **request.common)


def _healthcheck(request: _Request) -> df.Healthcheck:
    kind, *rest = request.some("HEALTHCHECK")
    kind = kind.upper()
    if kind == "NONE":
        if rest:
            raise ValueError("HEALTHCHECK NONE takes no arguments")
        return df.Healthcheck(test=(kind,), **request.common)
    flags = request.flags()
    if kind != "CMD":
        raise MalformedError(f'unknown type "{kind}" in HEALTHCHECK (try CMD)', span=request.args[0])
    command = request.command(tuple(rest))
    if not command:
        raise ValueError("missing command after HEALTHCHECK CMD")
    return df.Healthcheck(
        test=("CMD" if request.node.json else "CMD-SHELL", *command),
        interval=_interval(flags, "interval"),
        timeout=_interval(flags, "timeout"),
        start_period=_interval(flags, "start-period"),
        start_interval=_interval(flags, "start-interval"),
        retries=_retries(flags.string("retries")),
        **request.common,
    )


def _interval(flags: Flags, name: str) -> int:
    text = flags.string(name)
    value = parse_duration(text) if text else 0
    if value and value < _MIN_INTERVAL:
        raise ValueError(f'interval "{name}" cannot be less than 1ms')
    return value


def _retries(text: str) -> int:
    if not text:
        return 0
    if not re.fullmatch(r"[-+]?\d{1,10}", text, re.ASCII) or abs(int(text)) >= 2**31:
        raise ValueError(f'invalid number "{text[:20]}" for --retries')
    if int(text) < 0:
        raise ValueError(f"--retries cannot be negative ({int(text)})")
    return int(text)


def _on_build(request: _Request) -> df.OnBuild:
    trigger = request.node.sub
    if trigger is None:
        raise ValueError("ONBUILD requires at least one argument")
    request.flags()
    keyword = trigger.keyword.upper()
    if keyword == "ONBUILD":
        raise ValueError("Chaining ONBUILD via `ONBUILD ONBUILD` isn't allowed")
    if keyword in ("MAINTAINER", "FROM"):
        raise ValueError(f"{keyword} isn't allowed as an ONBUILD trigger")
    text = _ONBUILD.sub("", request.node.original, count=1)
    heredocs = (f"\n{heredoc.content}{heredoc.name}" for heredoc in request.node.heredocs)
    return df.OnBuild(expression=text + "".join(heredocs), **request.common)


RULES: Final[Mapping[str, _Rule]] = {
    "add": _add,
    "arg": _arg,
    "cmd": _cmd,
    "copy": _copy,
    "entrypoint": _entrypoint,
    "env": _env,
    "expose": _expose,
    "from": _from,
    "healthcheck": _healthcheck,
    "label": _label,
    "maintainer": _maintainer,
    "onbuild": _on_build,
    "run": _run,
    "shell": _shell,
    "stopsignal": _stop_signal,
    "user": _user,
    "volume": _volume,
    "workdir": _workdir,
}
"""What makes an instruction of a node, by its keyword in lower case: all the instructions there are."""
