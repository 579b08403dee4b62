"""What becomes a step's program: identity, capabilities, working directory, and the exec itself.

Runs in the step's namespaces, its root already in place. `start` returns only by an exception or by ending the process.
"""

from __future__ import annotations

import errno
import os
import resource
import stat
from typing import Final, NoReturn

from firekiln.sandbox import seccomp, syscalls, user
from firekiln.sandbox.request import Request

CAPABILITIES: Final = 0xA80425FB
"""Docker's default: chown, dac_override, fowner, fsetid, kill, setgid, setuid, setpcap, net_bind_service, net_raw,
sys_chroot, mknod, audit_write, setfcap."""
PATH: Final = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
"""BuildKit's, for images that set none."""

_HIGHEST_CAPABILITY: Final = 63
_PASSWD_LIMIT: Final = 16 << 20
_CANNOT_EXECUTE: Final = 126
_NOT_FOUND: Final = 127


def identity(request: Request) -> user.Identity:
    """Whom the step runs as, by the passwd and group of the root that we are in. LookupError as `user.resolve`."""
    return user.resolve(request.user, passwd=_read("/etc/passwd"), group=_read("/etc/group"))


def change_directory(cwd: str) -> None:
    """Go to the step's working directory, made where it is missing.

    By now no descriptor of another root is open, so that no path leads to one; the check is for what nobody thought of.
    """
    os.makedirs(cwd, mode=0o755, exist_ok=True)
    os.chdir(cwd)
    if not os.getcwd().startswith("/"):
        raise OSError(errno.EPERM, "the working directory lies outside the root", cwd)


def become(who: user.Identity, *, insecure: bool) -> None:
    """Take the identity for good. Unless `insecure` the calls and capabilities left are those of Docker's default."""
    if not insecure:
        seccomp.install()  # while we may: afterwards no_new_privs would be needed
        for number in range(_HIGHEST_CAPABILITY + 1):
            if not CAPABILITIES >> number & 1 and not _dropped(number):
                break
    syscalls.prctl(syscalls.PR_CAP_AMBIENT, syscalls.PR_CAP_AMBIENT_CLEAR_ALL)
    os.setgroups(sorted({who.gid, *who.groups}))
    os.setresgid(who.gid, who.gid, who.gid)
    os.setresuid(who.uid, who.uid, who.uid)  # for another than root this clears what is permitted and effective
    if who.uid == 0 and not insecure:
        held = CAPABILITIES & syscalls.capget()
        syscalls.capset(effective=held, permitted=held, inheritable=0)


def limit(request: Request) -> None:
    """Set the resource limits, while we may raise them. PermissionError where we may not."""
    for number, soft, hard in request.rlimits:
        try:
            resource.setrlimit(number, (soft, hard))
        except ValueError as error:
            raise PermissionError(errno.EPERM, f"cannot set a --ulimit: {error}") from error


def environment(request: Request, who: user.Identity) -> dict[bytes, bytes]:
    """The variables, the last of a name counting, with HOME and PATH where they are missing."""
    made = {"PATH": PATH, "HOME": who.home}
    variables = dict(entry.split("=", 1) for entry in request.env if "=" in entry[1:])
    merged = {**variables, **{name: value for name, value in made.items() if name not in variables}}
    return {os.fsencode(name): os.fsencode(value) for name, value in merged.items()}


def start(request: Request, variables: dict[bytes, bytes]) -> NoReturn:
    """Execute the program. Where that fails the step ends with 127 or 126 and says why on its own stderr."""
    name = request.args[0]
    try:
        program = _program(name, os.fsdecode(variables[b"PATH"]))
        os.execve(program, [os.fsencode(word) for word in request.args], variables)  # noqa: S606 - a RUN's program, found by Docker's rules
    except FileNotFoundError as error:
        reason = "executable file not found in $PATH" if "/" not in name else error.strerror
        _give_up(f'exec: "{name}": {reason}', _NOT_FOUND)
    except OSError as error:
        _give_up(f'exec: "{name}": {error.strerror}', _CANNOT_EXECUTE)


def _dropped(number: int) -> bool:
    """False beyond the kernel's last capability."""
    try:
        syscalls.prctl(syscalls.PR_CAPBSET_DROP, number)
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        return False
    return True


def _program(name: str, path: str) -> str:
    """Go's exec.LookPath, as runc uses it: a name with a slash is taken as it is."""
    if "/" in name:
        return name
    denied: OSError | None = None
    for folder in path.split(":"):
        candidate = os.path.join(folder or ".", name)
        try:
            found = os.stat(candidate)
        except OSError:
            continue
        if stat.S_ISREG(found.st_mode):
            if os.access(candidate, os.X_OK):
                return candidate
            denied = PermissionError(errno.EACCES, os.strerror(errno.EACCES), candidate)
    raise denied or FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), name)


def _read(path: str) -> bytes | None:
    """A file of the image: None where there is no regular file. What lies there may be anything, a FIFO too."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    except OSError:
        return None
    with open(fd, "rb") as file:
        return file.read(_PASSWD_LIMIT) if stat.S_ISREG(os.fstat(fd).st_mode) else None


def _give_up(message: str, status: int) -> NoReturn:
    os.write(2, os.fsencode(message) + b"\n")
    os._exit(status)
