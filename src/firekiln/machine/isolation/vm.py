"""A machine that runs steps, one at a time: its VMM, its agent, and what it has been given so far."""

from __future__ import annotations

import os
import selectors
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Final, TypeAlias

from firekiln.errors import FirekilnError, MachineError
from firekiln.machine.guest.agent import Agent
from firekiln.machine.guest.protocol import MAIN
from firekiln.machine.guest.reports import Closed, Event, Exited, Failed, Output, Ready, joined
from firekiln.machine.isolation.delivery import Delivery
from firekiln.machine.isolation.document import DELIVERY, SCRATCH, Attachment
from firekiln.machine.supervision.ending import Tail
from firekiln.machine.vmm.backend import Guest, Vmm
from firekiln.machine.vmm.spec import MachineSpec
from firekiln.rootfs import ext4
from firekiln.rootfs.tree import Tree
from firekiln.sandbox import step as steps
from firekiln.store.durable import store_errors
from firekiln.values import dataclass

BOOT_SECONDS: Final = 120.0
"""Until a guest must have come up; it takes one, and on a host that is busy many."""
NUMBERS: Final = 255
_TICK: Final = 0.1
_READ: Final = 1 << 16

Identity: TypeAlias = tuple[int, int, int, int]
"""A layer's file, whatever it is called now: a layer is renamed when its build keeps it."""


def identity(layer: Path) -> Identity:
    status = layer.stat()
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended:
    """How a step's process ended, or that it did not start, and whether the machine may run another one."""

    result: Exited | Failed
    released: bool


class _Keeper:
    """The thread that a VMM lives in: the kernel ends the VMM with it, and so with this process.

    It reads what the VMM and the guest's console say, which would otherwise wait for a reader.
    """

    def __init__(self, vmm: Vmm, spec: MachineSpec) -> None:
        self.said = Tail()
        self._launched = threading.Event()
        self._closing, self._wake = os.pipe()
        self._error: BaseException | None = None
        self._guest: Guest | None = None
        self._thread = threading.Thread(target=self._run, args=(vmm, spec), name="firekiln-vm", daemon=True)
        self._thread.start()

    def guest(self) -> Guest:
        """The running VMM. The error with which it did not start."""
        self._launched.wait()
        if self._error is not None:
            raise self._error
        assert self._guest is not None
        return self._guest

    def close(self) -> None:
        """End the VMM. Idempotent."""
        if self._wake >= 0:
            os.close(self._wake)
            self._wake = -1
            self._thread.join()
            os.close(self._closing)

    def _run(self, vmm: Vmm, spec: MachineSpec) -> None:
        try:
            with vmm.launch(spec) as guest:
                self._guest = guest
                self._launched.set()
                self._listen(guest)
        except (FirekilnError, OSError) as error:
            self._error = error
            self._launched.set()

    def _listen(self, guest: Guest) -> None:
        with selectors.DefaultSelector() as selector:
            selector.register(self._closing, selectors.EVENT_READ)
            for pipe in (guest.console, guest.complaints):
                selector.register(pipe, selectors.EVENT_READ)
            while True:
                for key, _ in selector.select():
                    if key.fd == self._closing:
                        return
                    data = os.read(key.fd, _READ)
                    self.said.add(data)
                    if not data:
                        selector.unregister(key.fileobj)


class StepMachine:
    """One machine, booting since it was made. `drives` are the layers that it was booted with, in the spec's order.

    To be used by one thread at a time; `close` ends it from any.
    """

    def __init__(self, vmm: Vmm, spec: MachineSpec, drives: Sequence[Path], delivery: Delivery) -> None:
        self.scratch = next(drive.path for drive in spec.drives if drive.serial == SCRATCH)
        self.memory = spec.memory
        self._delivery = delivery
        self._held = ExitStack()
        self._held.enter_context(delivery)
        self._layers: dict[Identity, int] = {}
        self._once: list[int] = []
        self._pending = [Attachment(number=number, serial=drive_serial(number)) for number, _ in enumerate(drives)]
        self._layers.update((identity(layer), number) for number, layer in enumerate(drives))
        self._has_run = False
        self._keeper = _Keeper(vmm, spec)
        self._held.callback(self._keeper.close)
        self._agent: Agent | None = None
        self._guard = threading.Lock()

    def close(self) -> None:
        """End it, whatever it does. Idempotent."""
        with self._guard:
            self._held.close()

    def missing(self, layers: Iterable[Path]) -> int:
        """Bytes of those of `layers` that it does not have."""
        return sum(found[2] for layer in layers if (found := identity(layer)) not in self._layers)

    def has_room(self) -> bool:
        """Whether it can be given more."""
        return len(self._layers) < NUMBERS // 2

    def numbers(self, layers: Sequence[Path]) -> tuple[int, ...]:
        """The numbers of the layers, which it is given with its next step where it lacks them."""
        return tuple(self._number(layer) for layer in layers)

    def next_number(self) -> int:
        """The number of what is given next."""
        taken = {*self._layers.values(), *self._once}
        free = next((number for number in range(NUMBERS) if number not in taken), None)
        if free is None:
            raise MachineError("a step has more layers than a VM takes", hint="join steps, or build with namespaces")
        return free

    def give(self, tree: Tree) -> int:
        """Give it a Tree for its next step only; the number."""
        number = self.next_number()
        offset, size = self._delivery.put_tree(tree)
        self._pending.append(Attachment(number=number, serial=DELIVERY, offset=offset, size=size, once=True))
        self._once.append(number)
        return number

    def run(self, document: bytes, *, output: steps.Output, check: Callable[[], None]) -> Ended:
        """Run a step to its end. `check` is called now and then, and may raise: the machine must then be closed.

        MachineError where the machine fails.
        """
        agent = self._booted(check)
        if self._has_run:  # else it is new; and before the VMM has opened it, its size must not change
            make_scratch(self.scratch, self.scratch.stat().st_size)
        self._has_run = True
        order: Mapping[str, object] = {"attach": [item.to_json() for item in self._pending], "scratch": SCRATCH}
        agent.step(document, order)
        self._pending.clear()
        result: Exited | Failed | None = None
        for event in self._events(agent, check):
            match event:
                case Output(fd=fd, data=data) if event.process == MAIN:
                    if data:
                        output(fd, data)
                case Exited() | Failed() if event.process == MAIN:
                    result = event
                case Ready(released=released) if result is not None:
                    self._once.clear()
                    return Ended(result=result, released=released)
                case _:
                    pass
        raise AssertionError  # the events end with an error

    def _number(self, layer: Path) -> int:
        key = identity(layer)
        if key not in self._layers:
            number = self.next_number()
            offset, size = self._delivery.put(layer)
            self._pending.append(Attachment(number=number, serial=DELIVERY, offset=offset, size=size))
            self._layers[key] = number
        return self._layers[key]

    def _booted(self, check: Callable[[], None]) -> Agent:
        """The agent, once the guest waits for a step."""
        if self._agent is None:
            agent = Agent(self._keeper.guest().channel)
            with self._guard:
                self._held.callback(agent.close)
                self._agent = agent
            deadline = time.monotonic() + BOOT_SECONDS

            def waiting() -> None:
                check()
                if time.monotonic() > deadline:
                    raise self._failed(f"the guest did not come up within {BOOT_SECONDS:.0f} s")

            next(event for event in self._events(agent, waiting) if isinstance(event, Ready))
        return self._agent

    def _events(self, agent: Agent, check: Callable[[], None]) -> Iterable[Event]:
        while True:
            check()
            for event in joined(agent.wait(_TICK)):
                if isinstance(event, Closed):
                    raise self._failed("the VM in which the step ran ended without a word")
                yield event
            if agent.is_closed:
                raise self._failed("the VM in which the step ran was ended")

    def _failed(self, what: str) -> MachineError:
        said = self._keeper.said.lines()
        return MachineError(what, hint=f"it said: {' | '.join(said)}" if said else None)


def make_scratch(path: Path, size: int) -> None:
    """Make the file at `path`, new or not, an empty file system of `size` bytes. StoreError."""
    with store_errors(path, "cannot make the scratch drive"):
        ext4.empty(path, size)


def drive_serial(number: int) -> str:
    """The serial of the layer that a machine is booted with as that number."""
    return f"layer{number}"
