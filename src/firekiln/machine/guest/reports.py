"""What a guest reports, as values: each control frame's fields checked, bounded, and made fit for people's eyes. Pure.

Nothing that a guest says is trusted: numbers have ranges, lists have lengths, text loses what a terminal would obey. A
breach is a MachineError.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Literal, TypeAlias, cast

from firekiln.machine.guest.protocol import MAIN, PAYLOAD_LIMIT, Frame, FrameType, broken, parse_control
from firekiln.values import dataclass

_TEXT_LIMIT = 4096
_LIST_LIMIT = 256
_DAY_MS = 86_400_000

HealthStatus: TypeAlias = Literal["starting", "healthy", "unhealthy"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Hello:
    """The guest's PID 1 runs. `protocol` is the version that both sides speak; `uptime_ms` its kernel's age then."""

    protocol: int
    uptime_ms: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Started:
    """The process executes the program; `pid` and `uid` are the guest's, `uptime_ms` its kernel's age at that time.

    `restarts` counts how often the guest's restart policy has started it before.
    """

    pid: int
    uid: int
    uptime_ms: int
    restarts: int = 0
    process: int = MAIN


@dataclass(frozen=True, slots=True, kw_only=True)
class Output:
    """Bytes that a process wrote to descriptor 1 or 2. Empty `data` is the end of that descriptor's output."""

    fd: Literal[1, 2]
    data: bytes
    process: int = MAIN

    def continues(self, other: Output) -> bool:
        """Whether both were written to one descriptor of one process."""
        return self.fd == other.fd and self.process == other.process


@dataclass(frozen=True, slots=True, kw_only=True)
class Exited:
    """A process has ended, by `code` or by `signal`; all of its output came before.

    `oom` says that the guest's kernel killed it because memory was short. The machine powers itself off when its main
    process has ended, unless `again_ms` is there: so many milliseconds later that starts again.
    """

    code: int | None
    signal: int | None = None
    oom: bool = False
    again_ms: int | None = None
    process: int = MAIN

    @property
    def status(self) -> int:
        """As a shell says it: 128 + n for signal n."""
        return self.code if self.code is not None else 128 + (self.signal or 0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Failed:
    """A process could not be started. `status` is Docker's word for it: 125, 126 (not executable) or 127 (not found).

    `stage` names what failed (`document`, `drive`, `root`, `mount`, `network`, `user`, `cwd`, `exec`, `process`); it is
    for programs, `message` for people.
    """

    stage: str
    message: str
    errno: int
    status: int
    process: int = MAIN


@dataclass(frozen=True, slots=True, kw_only=True)
class Health:
    """One result of the health check. Times are the guest's clock, in ns; `code` is -1 where it took too long."""

    status: HealthStatus
    streak: int
    start_ns: int
    end_ns: int
    code: int
    output: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Stat:
    """A file of the guest. `mode` is st_mode, `target` a link's. The name is the guest's word: not one to write to."""

    name: str
    mode: int
    size: int
    mtime_ns: int
    target: str
    process: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Counter:
    """What went through a device of that name, in bytes: received and sent, or read and written."""

    name: str
    into: int
    out: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Stats:
    """The guest's own figures: memory in bytes, processor time in ms, summed over processors since its start.

    `listening` are TCP ports.
    """

    memory: Mapping[str, int]
    cpu: Mapping[str, int]
    network: tuple[Counter, ...]
    block: tuple[Counter, ...]
    pids: int
    listening: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class TopProcess:
    """One process of the guest. `start_ms` counts from the guest's boot, `rss` is in bytes; a user may have no name."""

    pid: int
    ppid: int
    uid: int
    user: str
    start_ms: int
    cpu_ms: int
    tty: str
    rss: int
    argv: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Top:
    """The guest's processes, as many as fit into a frame. `more`: another Top follows with others."""

    processes: tuple[TopProcess, ...]
    more: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Ready:
    """A machine for steps waits for the next one. `released`: nothing of the last one holds the scratch drive."""

    released: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Log:
    """A remark of PID 1 itself: something is not as it should be, and the machine goes on."""

    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Pong:
    """The answer to `ping`, with its payload."""

    payload: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Frozen:
    """All processes of the guest stand still; where they couldn't be made to, `reason` says why, and they go on."""

    reason: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Thawed:
    """They go on."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Closed:
    """The channel has ended: the VMM is gone, or closed it. The last event of an agent."""


Report: TypeAlias = Started | Exited | Failed | Health | Stat | Stats | Top | Log | Frozen | Thawed | Ready
Event: TypeAlias = Hello | Report | Output | Pong | Closed


def report(frame: Frame) -> Report | None:
    """The value of a control frame; None for a type that reports nothing. MachineError for a breach."""
    read = _READERS.get(frame.type)
    return read(parse_control(frame), frame.process) if read else None


def joined(events: Iterable[Event]) -> Iterator[Event]:
    """The events, neighbouring pieces of one output put together to at most PAYLOAD_LIMIT bytes.

    A process that writes its lines one by one costs a quarter of what it would else. The end of an output stays apart.
    """
    pieces: list[Output] = []
    size = 0
    for event in events:
        piece = event if isinstance(event, Output) and event.data else None
        if pieces and not (piece and piece.continues(pieces[0]) and size + len(piece.data) <= PAYLOAD_LIMIT):
            yield _one(pieces)
            pieces, size = [], 0
        if piece:
            pieces.append(piece)
            size += len(piece.data)
        else:
            yield event
    if pieces:
        yield _one(pieces)


def _one(pieces: Sequence[Output]) -> Output:
    first = pieces[0]
    if len(pieces) == 1:
        return first
    return Output(fd=first.fd, data=b"".join(piece.data for piece in pieces), process=first.process)


def integer(fields: Mapping[str, Any], name: str, low: int = 0, high: int = (1 << 63) - 1) -> int:
    """A number within its range. MachineError."""
    value = fields.get(name)
    if type(value) is not int or not low <= value <= high:
        raise broken(f"its {name} is no number from {low} to {high}")
    return value


def text(fields: Mapping[str, Any], name: str, *, lines: bool = False) -> str:
    """A string for people's eyes: bounded, without control characters (but line ends and tabs, where `lines`)."""
    value = fields.get(name)
    if not isinstance(value, str):
        raise broken(f"its {name} is no string")
    return _printable(value, "\n\t" if lines else "")


def _printable(value: str, kept: str = "") -> str:
    return "".join(
        char if char.isprintable() or char in kept else "\N{REPLACEMENT CHARACTER}" for char in value[:_TEXT_LIMIT]
    )


def _items(fields: Mapping[str, Any], name: str) -> list[Mapping[str, Any]]:
    value = fields.get(name)
    if not isinstance(value, list) or len(value) > _LIST_LIMIT or not all(isinstance(item, dict) for item in value):
        raise broken(f"its {name} is no list of objects")
    return value


def _numbers(fields: Mapping[str, Any], name: str, keys: str) -> Mapping[str, int]:
    value = fields.get(name)
    if not isinstance(value, dict):
        raise broken(f"its {name} is no object")
    return {key: integer(value, key) for key in keys.split()}


def _started(fields: Mapping[str, Any], process: int) -> Started:
    return Started(
        pid=integer(fields, "pid", 1),
        uid=integer(fields, "uid"),
        uptime_ms=integer(fields, "uptime_ms"),
        restarts=integer(fields, "restarts", 0, 1 << 31) if "restarts" in fields else 0,
        process=process,
    )


def _exited(fields: Mapping[str, Any], process: int) -> Exited:
    oom = fields.get("oom") is True
    again = integer(fields, "again", 0, _DAY_MS) if fields.get("again") is not None else None
    if "signal" in fields:
        number = integer(fields, "signal", 1, 127)
        return Exited(code=None, signal=number, oom=oom, again_ms=again, process=process)
    return Exited(code=integer(fields, "code", 0, 255), oom=oom, again_ms=again, process=process)


def _failed(fields: Mapping[str, Any], process: int) -> Failed:
    return Failed(
        stage=text(fields, "stage"),
        message=text(fields, "message"),
        errno=integer(fields, "errno", 0, 4095),
        status=integer(fields, "status", 125, 127),
        process=process,
    )


def _health(fields: Mapping[str, Any], _process: int) -> Health:
    status = fields.get("status")
    if status not in ("starting", "healthy", "unhealthy"):
        raise broken("its health has no status")
    return Health(
        status=cast("HealthStatus", status),
        streak=integer(fields, "streak", 0, 1 << 31),
        start_ns=integer(fields, "start_ns"),
        end_ns=integer(fields, "end_ns"),
        code=integer(fields, "code", -1, 255),
        output=text(fields, "output", lines=True),
    )


def _stat(fields: Mapping[str, Any], process: int) -> Stat:
    target = fields.get("target")
    return Stat(
        name=text(fields, "name"),
        mode=integer(fields, "mode", 0, 0xFFFF),
        size=integer(fields, "size"),
        mtime_ns=integer(fields, "mtime_ns", -(1 << 63)),
        target=target[:_TEXT_LIMIT] if isinstance(target, str) else "",
        process=process,
    )


def _stats(fields: Mapping[str, Any], _process: int) -> Stats:
    return Stats(
        memory=_numbers(fields, "memory", "total free available cached"),
        cpu=_numbers(fields, "cpu", "user system idle iowait"),
        network=_counters(fields, "network", "rx_bytes", "tx_bytes"),
        block=_counters(fields, "block", "read", "written"),
        pids=integer(fields, "pids"),
        listening=_ports(fields.get("listening", [])),
    )


def _ports(value: Any) -> tuple[int, ...]:
    if not isinstance(value, list) or len(value) > _LIST_LIMIT or not all(type(port) is int for port in value):
        raise broken("its listening is no list of ports")
    return tuple(value)


def _counters(fields: Mapping[str, Any], name: str, into: str, out: str) -> tuple[Counter, ...]:
    return tuple(
        Counter(name=text(item, "name"), into=integer(item, into), out=integer(item, out))
        for item in _items(fields, name)
    )


def _top(fields: Mapping[str, Any], _process: int) -> Top:
    return Top(processes=tuple(map(_top_process, _items(fields, "processes"))), more=fields.get("more") is True)


def _top_process(item: Mapping[str, Any]) -> TopProcess:
    argv = item.get("argv")
    if not isinstance(argv, list) or not all(isinstance(word, str) for word in argv):
        raise broken("its argv is no list of strings")
    return TopProcess(
        pid=integer(item, "pid"),
        ppid=integer(item, "ppid"),
        uid=integer(item, "uid"),
        user=text(item, "user") if item.get("user") is not None else "",
        start_ms=integer(item, "start_ms"),
        cpu_ms=integer(item, "cpu_ms"),
        tty=text(item, "tty") if item.get("tty") is not None else "",
        rss=integer(item, "rss"),
        argv=tuple(map(_printable, argv)),
    )


def _log(fields: Mapping[str, Any], _process: int) -> Log:
    return Log(message=text(fields, "message"))


def _frozen(fields: Mapping[str, Any], _process: int) -> Frozen:
    return Frozen(reason="" if fields.get("frozen") is True else text(fields, "message") or "it gives no reason")


_READERS: Mapping[int, Callable[[Mapping[str, Any], int], Report]] = {
    FrameType.STARTED: _started,
    FrameType.EXITED: _exited,
    FrameType.FAILED: _failed,
    FrameType.HEALTH: _health,
    FrameType.STAT: _stat,
    FrameType.STATS: _stats,
    FrameType.TOP: _top,
    FrameType.LOG: _log,
    FrameType.FREEZE: _frozen,
    FrameType.THAW: lambda _fields, _process: Thawed(),
    FrameType.READY: lambda fields, _process: Ready(released=fields.get("released") is True),
}
