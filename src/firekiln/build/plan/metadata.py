"""The instructions that change only the config: one small function each."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import replace

from firekiln.build.plan import checks
from firekiln.build.plan.platformargs import NO_ENVIRONMENT
from firekiln.build.plan.ports import forgotten_prefix, parse_ports
from firekiln.build.plan.signals import check_signal
from firekiln.build.plan.state import Planning, StageState
from firekiln.dockerfile.instructions import (
    Arg,
    Cmd,
    CommandLine,
    Entrypoint,
    Env,
    Expose,
    Healthcheck,
    Label,
    Maintainer,
    OnBuild,
    Shell,
    StopSignal,
    User,
    Volume,
)
from firekiln.oci import config as oci


def env(planning: Planning, state: StageState, instruction: Env) -> None:
    # All pairs see the environment before the instruction: `ENV a=b c=$a` uses the old `a`.
    where = instruction.location
    pairs = [(planning.word(state, p.key, where), planning.word(state, p.value, where)) for p in instruction.env]
    checks.pairs(planning, instruction, instruction.env)
    for name, value in pairs:
        planning.spend(len(state.config.env) // 8, where)
        checks.secret(planning, instruction.name, name, where)
        state.set_env(name, value)
    state.commit(_pairs("ENV", pairs))


def label(planning: Planning, state: StageState, instruction: Label) -> None:
    where = instruction.location
    pairs = [(planning.word(state, p.key, where), planning.word(state, p.value, where)) for p in instruction.labels]
    checks.pairs(planning, instruction, instruction.labels)
    planning.spend(len(state.config.labels) // 8, where)
    state.config = replace(state.config, labels={**state.config.labels, **dict(pairs)})
    state.commit(_pairs("LABEL", pairs))


def arg(planning: Planning, state: StageState, instruction: Arg) -> None:
    """A build argument wins over a default, a default over the global scope. The image's ENV is not touched."""
    build_args = planning.build_args
    shown = []
    for item in instruction.args:
        planning.declared.add(item.key)
        checks.secret(planning, instruction.name, item.key, instruction.location)
        if item.key in build_args:
            value: str | None = build_args[item.key]
        elif item.value is not None:
            value = planning.word(state, item.value, instruction.location)
        else:
            value = planning.args.get(item.key)
        if value is not None and item.key not in NO_ENVIRONMENT:
            state.set_step_env(item.key, value)
        state.args.append((item.key, value))
        shown.append(item.key if value is None else f"{item.key}={value}")
    state.commit("ARG " + " ".join(shown))


def maintainer(planning: Planning, state: StageState, instruction: Maintainer) -> None:
    del planning  # MAINTAINER is never expanded
    state.author = instruction.maintainer
    state.commit(f"MAINTAINER {instruction.maintainer}")


def cmd(planning: Planning, state: StageState, instruction: Cmd) -> None:
    checks.used_once(planning, state, instruction)
    args = _argv(planning, state, instruction, instruction.command)
    state.config = replace(state.config, cmd=args, args_escaped=True)
    state.commit(f"CMD {_quoted(args)}")


def entrypoint(planning: Planning, state: StageState, instruction: Entrypoint) -> None:
    """An inherited CMD was written for an inherited ENTRYPOINT: it goes, unless this stage has set its own."""
    checks.used_once(planning, state, instruction)
    args = _argv(planning, state, instruction, instruction.command)
    kept = state.config.cmd if Cmd.name in state.seen else None
    state.config = replace(state.config, entrypoint=args, cmd=kept)
    state.commit(f"ENTRYPOINT {_quoted(args)}")


_ESCAPES = {7: r"\a", 8: r"\b", 9: r"\t", 10: r"\n", 11: r"\v", 12: r"\f", 13: r"\r", 39: r"\'", 92: r"\\"}


def healthcheck(planning: Planning, state: StageState, instruction: Healthcheck) -> None:
    checks.used_once(planning, state, instruction)
    check = oci.Healthcheck(
        test=instruction.test,
        interval=instruction.interval,
        timeout=instruction.timeout,
        start_period=instruction.start_period,
        start_interval=instruction.start_interval,
        retries=instruction.retries,
    )
    state.config = replace(state.config, healthcheck=check)
    times = (check.interval, check.timeout, check.start_period, check.start_interval)
    shown = " ".join(f'"{duration(time)}"' for time in times)
    state.commit(f"HEALTHCHECK &{{{_quoted(check.test)} {shown} {_quoted_rune(check.retries)}}}")


def user(planning: Planning, state: StageState, instruction: User) -> None:
    name = planning.word(state, instruction.user, instruction.location)
    state.config = replace(state.config, user=name)
    state.commit(f"USER {name}")


def volume(planning: Planning, state: StageState, instruction: Volume) -> None:
    paths = [planning.word(state, path, instruction.location) for path in instruction.paths]
    planning.spend(len(state.config.volumes), instruction.location)
    if "" in paths:
        raise planning.error("VOLUME specified can not be an empty string", instruction.location)
    state.config = replace(state.config, volumes=tuple(sorted({*state.config.volumes, *paths})))
    state.commit(f"VOLUME [{' '.join(paths)}]")


def expose(planning: Planning, state: StageState, instruction: Expose) -> None:
    ports: list[str] = []
    for word in instruction.ports:
        for port in _port_words(planning, state, word, instruction):
            checks.port(planning, port, instruction.location)
            try:
                ports += parse_ports(port)
            except ValueError as error:
                raise planning.error(str(error), instruction.location, span=word) from None
    planning.spend(len(ports) + len(state.config.exposed_ports), instruction.location)
    state.config = replace(state.config, exposed_ports=tuple(sorted({*state.config.exposed_ports, *ports})))
    state.commit(f"EXPOSE [{' '.join(ports)}]")


def stop_signal(planning: Planning, state: StageState, instruction: StopSignal) -> None:
    signal = planning.word(state, instruction.signal, instruction.location)
    try:
        check_signal(signal)
    except ValueError as error:
        raise planning.error(str(error), instruction.location, span=instruction.signal) from None
    state.config = replace(state.config, stop_signal=signal)
    state.commit(f"STOPSIGNAL {signal}")


def shell(planning: Planning, state: StageState, instruction: Shell) -> None:
    del planning  # SHELL is never expanded
    state.config = replace(state.config, shell=instruction.shell)
    state.commit(f"SHELL [{' '.join(instruction.shell)}]")


def on_build(planning: Planning, state: StageState, instruction: OnBuild) -> None:
    del planning  # a trigger is expanded where it runs
    state.config = replace(state.config, on_build=(*state.config.on_build, instruction.expression))


def duration(nanoseconds: int) -> str:
    """As Go prints a time.Duration: `5m0s`, `1.5s`, `30ms`, `0s`."""
    if not nanoseconds:
        return "0s"
    for unit, size in (("ns", 10**3), ("µs", 10**6), ("ms", 10**9)):
        if nanoseconds < size:
            return f"{_decimal(nanoseconds, size // 10**3)}{unit}"
    minutes, rest = divmod(nanoseconds, 60 * 10**9)
    hours, minutes = divmod(minutes, 60)
    head = f"{hours}h{minutes}m" if hours else f"{minutes}m" if minutes else ""
    return f"{head}{_decimal(rest, 10**9)}s"


def _decimal(value: int, unit: int) -> str:
    whole, rest = divmod(value, unit)
    digits = len(str(unit)) - 1
    return f"{whole}.{rest:0{digits}d}".rstrip("0").rstrip(".") if rest else str(whole)


def _port_words(planning: Planning, state: StageState, word: str, instruction: Expose) -> list[str]:
    """What one word expands to, less what BuildKit forgets of it."""
    forgotten = forgotten_prefix(word, planning.dockerfile.escape)
    before = planning.words(state, word[:forgotten] + "|", instruction.location)[:-1] if forgotten else ()
    return [*before, *planning.words(state, word[forgotten:], instruction.location)]


def _argv(
    planning: Planning, state: StageState, instruction: Cmd | Entrypoint, command: CommandLine
) -> tuple[str, ...]:
    if not command.shell:
        return command.args
    checks.shell_form(planning, state, instruction)
    return state.shell(" ".join(command.args))


def _pairs(name: str, pairs: Sequence[tuple[str, str]]) -> str:
    return " ".join([name, *(f"{key}={value}" for key, value in pairs)])


def _quoted(args: Sequence[str]) -> str:
    """As Go's %q prints a list of strings."""
    return "[" + " ".join(json.dumps(arg, ensure_ascii=False) for arg in args) + "]"


def _quoted_rune(number: int) -> str:
    """As Go's %q prints a number: a character, 65 for one `'A'`."""
    if number in _ESCAPES:
        return f"'{_ESCAPES[number]}'"
    if not 0 <= number <= sys.maxunicode or 0xD800 <= number <= 0xDFFF:
        return "'\ufffd'"
    if chr(number).isprintable():
        return f"'{chr(number)}'"
    return (
        f"'\\x{number:02x}'" if number <= 0x7F else f"'\\u{number:04x}'" if number <= 0xFFFF else f"'\\U{number:08x}'"
    )
