"""The process that steps are forked from: single-threaded, small, and in a mount namespace of its own.

A build runs steps from several threads, and a process with threads must not fork and go on in Python. So one process
is started for all steps of a runner (about 35 ms, once), which does nothing but fork them. Measured against that, an
interpreter for each step would cost 20 ms every time. It also mounts each layer only once.

What keeps a step from outliving the build: the step is the first process of its pid namespace, so that everything it
left dies with it; it dies with the spawner (PR_SET_PDEATHSIG); the spawner kills it when its socket or the control
socket closes, or when the process that started it is gone, whatever killed that.

Control messages (SOCK_SEQPACKET, in order): `layer N` with a mount; `step` with a request's descriptors.
"""

from __future__ import annotations

import fcntl
import gc
import os
import select
import signal
import socket
import sys
from dataclasses import field
from typing import Final, NoReturn

from firekiln.sandbox import process, root, seccomp, syscalls
from firekiln.sandbox.control import receive
from firekiln.sandbox.network import loopback_up
from firekiln.sandbox.request import Report, Request
from firekiln.values import dataclass

NAMESPACES: Final = syscalls.CLONE_NEWNS | syscalls.CLONE_NEWPID | syscalls.CLONE_NEWIPC | syscalls.CLONE_NEWUTS
_ALIVE: Final = 0
_READABLE: Final = select.POLLIN | select.POLLHUP | select.POLLERR


@dataclass(slots=True, kw_only=True)
class _Child:
    pid: int
    pidfd: int
    channel: socket.socket


@dataclass(slots=True, kw_only=True)
class Spawner:
    """The loop. `watched` is a pidfd of the process whose end is ours, `own` one of this process."""

    control: socket.socket
    watched: int
    own: int
    poll: select.poll = field(default_factory=select.poll)
    children: dict[int, _Child] = field(default_factory=dict)
    """By the pidfd and by the socket's descriptor."""

    def serve(self) -> None:
        """Until the control socket or the watched process ends; then nothing that was forked is left."""
        self.poll.register(self.control, _READABLE)
        self.poll.register(self.watched, _READABLE)
        try:
            while self._turn():
                pass
        finally:
            for child in {child.pid: child for child in self.children.values()}.values():
                _kill(child)
                self._reap(child)

    def _turn(self) -> bool:
        # The control socket comes last: a fork may reuse the number of a descriptor that was closed in this turn.
        ready = sorted((fd for fd, _ in self.poll.poll()), key=self.control.fileno().__eq__)
        for fd in ready:
            child = self.children.get(fd)
            if child is not None:
                self._attend(child, fd)
            elif fd == self.watched or (fd == self.control.fileno() and not self._obey()):
                return False
        return True

    def _attend(self, child: _Child, fd: int) -> None:
        if fd == child.pidfd:
            self._reap(child)
        else:  # its socket: nothing is ever said there; its end asks for the step's end
            _kill(child)
            self.poll.unregister(fd)
            del self.children[fd]

    def _obey(self) -> bool:
        data, descriptors = receive(self.control)
        if not data:
            return False
        word, _, number = data.decode().partition(" ")
        if word == "layer":
            self._layer(number, descriptors[0])
        else:
            self._fork(descriptors)
        for fd in descriptors:
            os.close(fd)
        return True

    def _layer(self, number: str, mount: int) -> None:
        os.mkdir(f"/l/{number}")
        root.attach(mount, f"/l/{number}")

    def _fork(self, descriptors: list[int]) -> None:
        body = _body(descriptors[0])
        channel = socket.socket(fileno=os.dup(descriptors[1]))
        request = Request.decode(body)
        flags = NAMESPACES | (syscalls.CLONE_NEWNET if request.private_network else 0)
        try:
            pid, pidfd = syscalls.clone3(flags, exit_signal=signal.SIGCHLD)
        except OSError as error:
            _send(channel, Report(error=f"cannot create namespaces: {error.strerror}"))
            _send(channel, Report(status=1))
            channel.close()
            return
        if pid == 0:
            _step(request, channel, descriptors, self.own)
        child = _Child(pid=pid, pidfd=pidfd, channel=channel)
        for fd in (pidfd, channel.fileno()):
            self.children[fd] = child
            self.poll.register(fd, _READABLE)

    def _reap(self, child: _Child) -> None:
        _, status = os.waitpid(child.pid, 0)
        for fd in (child.pidfd, child.channel.fileno()):
            if self.children.pop(fd, None):
                self.poll.unregister(fd)
        code = os.waitstatus_to_exitcode(status)
        _send(child.channel, Report(status=code if code >= 0 else 128 - code))
        child.channel.close()
        os.close(child.pidfd)


def _kill(child: _Child) -> None:
    signal.pidfd_send_signal(child.pidfd, signal.SIGKILL)


def _send(channel: socket.socket, report: Report) -> None:
    try:
        channel.send(report.encode(), socket.MSG_NOSIGNAL)
    except OSError:
        return  # nobody waits for it any more


def _body(fd: int) -> bytes:
    size = os.fstat(fd).st_size
    return os.pread(fd, size, 0)


def _step(request: Request, channel: socket.socket, descriptors: list[int], spawner: int) -> NoReturn:
    """The child's life: its root, its identity, its program. It never returns."""
    try:
        _die_with(spawner)
        for fd in descriptors[len(descriptors) - request.groups :]:
            os.write(fd, b"0")
        syscalls.unshare(syscalls.CLONE_NEWCGROUP)  # its root is the group that we are in now
        os.setsid()
        os.umask(0o022)
        stubs = root.assemble(request, descriptors[4], descriptors[5:])
        root.enter()
        _take_streams(descriptors[2], descriptors[3])
        channel = _only(channel, spawner)
        syscalls.sethostname(request.hostname)
        if request.private_network:
            loopback_up()
        syscalls.keyctl_join_session_keyring()
        who = process.identity(request)
        process.change_directory(request.cwd)
        _send(channel, Report(stubs=tuple(stubs)))
        process.limit(request)
        process.become(who, insecure=request.insecure)
        _die_with(_SPAWNER)  # a change of identity forgets the signal
        process.start(request, process.environment(request, who))
    except LookupError as error:
        _send(channel, Report(error=str(error.args[0] if error.args else error)))
    except OSError as error:
        place = f" ({error.filename})" if error.filename else ""
        _send(channel, Report(error=f"{error.strerror or error}{place}"))
    except BaseException as error:  # noqa: BLE001 - the border of a process: whatever it is must be told, not unwound
        _send(channel, Report(error=f"{type(error).__name__}: {error}"))
    os._exit(1)


_CHANNEL: Final = 3
_SPAWNER: Final = 4


def _only(channel: socket.socket, spawner: int) -> socket.socket:
    """Close every descriptor but the streams, the step's socket and the spawner's pidfd, which close on exec.

    Neither is a directory: from here on no descriptor leads out of the root.
    """
    moved = [fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, _SPAWNER + 1) for fd in (channel.detach(), spawner)]
    for fd, place in zip(moved, (_CHANNEL, _SPAWNER), strict=True):
        os.dup2(fd, place, inheritable=False)
    syscalls.close_range(_SPAWNER + 1)
    return socket.socket(fileno=_CHANNEL)


def _take_streams(out: int, err: int) -> None:
    null = os.open("/dev/null", os.O_RDONLY)
    for number, fd in enumerate((null, out, err)):
        os.dup2(fd, number, inheritable=True)


def _die_with(spawner: int) -> None:
    """Be killed with the spawner, also if it ended before this call."""
    syscalls.prctl(syscalls.PR_SET_PDEATHSIG, signal.SIGKILL)
    if select.select([spawner], [], [], _ALIVE)[0]:
        os._exit(1)


def _enter_namespace(ours: int, watched: int, ids: str, control: str, path: str) -> None:
    """Become root of a user namespace, and leave a process in it that still sees the host's files."""
    from firekiln.sandbox import confine, keeper, userns  # noqa: PLC0415 - root has no use for them
    from firekiln.sandbox.idmap import IdMap  # noqa: PLC0415 - as above

    userns.enter(IdMap.decode(ids))
    syscalls.unshare(syscalls.CLONE_NEWNS)
    confine.make_private()
    channel = socket.socket(fileno=int(control))
    if os.fork() == 0:
        os.close(ours)
        keeper.keep(channel, watched, path)
    channel.close()


def main() -> None:
    """`spawner FD PIDFD FOLDER [IDS FD PATH]`: serve the control socket FD for the process of PIDFD. FOLDER is any
    directory. With IDS in a user namespace of those ids, and with a keeper (`keeper.py`) for the second socket; PATH is
    where that finds its modules.
    """
    control, watched, folder, *rootless = sys.argv[1:]
    for number in set(signal.Signals) - {signal.SIGKILL, signal.SIGSTOP}:
        signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    gc.disable()  # a collection would touch, and so copy, every page of a forked child
    seccomp.program(os.uname().machine)  # once for all steps
    own = os.pidfd_open(os.getpid())
    if rootless:
        _enter_namespace(int(control), int(watched), *rootless)
    root.prepare(folder, rootless=bool(rootless))
    channel = socket.socket(fileno=int(control))
    channel.send(b"ready")
    Spawner(control=channel, watched=int(watched), own=own).serve()
