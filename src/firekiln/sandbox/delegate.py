"""An ordinary user's authority: what takes root's rights is asked of the keeper, which has them in our namespace."""

from __future__ import annotations

import json
import os
import select
import socket
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Final

from firekiln.errors import SandboxError
from firekiln.rootfs.directory import opened_upper
from firekiln.rootfs.tree import Tree
from firekiln.sandbox.authority import Waiting
from firekiln.sandbox.control import receive_body, send
from firekiln.sandbox.idmap import IdMap
from firekiln.sandbox.restore import Revealed, restoring

_TICK_MS: Final = 100


class Delegate:
    """Asks the keeper at the other end of `control`, from any thread. `gone` makes the error of a keeper that is gone.

    `snapshots` is a folder on the store's disk for layers as directories, those in use kept from `sweep` until `close`;
    `work` is one for what is soon gone.
    """

    userxattr = True

    def __init__(
        self, control: socket.socket, ids: IdMap, snapshots: Path, work: Path, gone: Callable[[], SandboxError]
    ) -> None:
        self._control = control
        self._ids = ids
        self._snapshots = snapshots
        self._work = work
        self._gone = gone
        self._lock = threading.Lock()
        self._held: list[int] = []

    def close(self) -> None:
        """End the keeper. Idempotent."""
        self._control.close()
        while self._held:
            os.close(self._held.pop())

    def tmpfs(self, *, size: int = 0, swap: bool = True) -> int:
        return self._mount("tmpfs", size=size, swap=swap)

    def clone(self, path: Path, *, readonly: bool) -> int:
        return self._mount("clone", path=str(path.absolute()), readonly=readonly)

    def layer(self, path: Path, waiting: Waiting) -> int:
        arguments = {"path": str(path), "folder": str(self._snapshots)}
        _, (mount, held) = self._ask("layer", arguments, waiting=waiting)
        self._held.append(held)
        return mount

    def fill(self, folder: int, tree: Tree) -> None:
        from firekiln.rootfs import erofs  # noqa: PLC0415 - few steps need it

        with tempfile.TemporaryDirectory(prefix="fill-", dir=self._work) as spool:
            path = Path(spool, "tree")
            erofs.write(tree, path)
            self._ask("unpack", {"path": str(path)}, [folder])

    def own(self, folder: int, name: str, *, mode: int, uid: int, gid: int) -> None:
        self._ask("own", {"name": name, "mode": mode, "uid": uid, "gid": gid}, [folder])

    @contextmanager
    def upper(self, folder: str) -> Iterator[Tree]:
        fd = os.open(folder, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            found, _ = self._ask("reveal", {}, [fd])
        finally:
            os.close(fd)
        revealed = {
            (device, inode): Revealed(mode, uid, gid, bytes.fromhex(capability))
            for device, inode, mode, uid, gid, capability in found
        }
        with opened_upper(folder, user_xattrs=True, restore=restoring(self._ids, revealed)) as tree:
            yield tree

    def remove(self, folder: Path) -> None:
        self._ask("remove", {"path": str(folder)})

    def sweep(self, layers: Path, temporary: Path | None) -> None:
        arguments = {"folder": self._snapshots, "layers": layers, "temporary": temporary or ""}
        self._ask("sweep", {name: str(path) for name, path in arguments.items()})

    def _mount(self, name: str, **arguments: Any) -> int:
        _, (mount,) = self._ask(name, arguments)
        return mount

    def _ask(
        self,
        name: str,
        arguments: dict[str, Any],
        descriptors: Sequence[int] = (),
        *,
        waiting: Waiting | None = None,
    ) -> tuple[Any, list[int]]:
        with ExitStack() as held:
            near, far = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            held.enter_context(near)
            with far:
                message = json.dumps([name, arguments]).encode()
                try:
                    with self._lock:
                        send(self._control, message, [far.fileno(), *descriptors])
                except OSError:
                    raise self._gone() from None
            if waiting is not None:
                _wait(near, waiting)
            try:
                body, made = receive_body(near)
            except (EOFError, OSError):
                raise self._gone() from None
        return _value(body), made


def _wait(channel: socket.socket, waiting: Waiting) -> None:
    poll = select.poll()
    poll.register(channel, select.POLLIN)
    while not poll.poll(_TICK_MS):
        waiting()


def _value(body: dict[str, Any]) -> Any:
    """What was answered, or raised."""
    if "value" in body:
        return body["value"]
    if "errno" in body:
        raise OSError(body["errno"], body["error"], body["place"])
    raise SandboxError(body["error"], hint=body["hint"])
