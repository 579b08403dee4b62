"""A guest at the end of a wire: PID 1 booted with a document of the test's own, spoken to frame by frame."""

import contextlib
import json
import socket
import struct
import subprocess
import time
from collections import defaultdict

from firekiln.machine.guest.binary import pid1_path
from firekiln.machine.guest.initramfs import base_initramfs
from firekiln.machine.vmm.qemu import qemu_argv
from firekiln.machine.vmm.spec import BlockDevice, MachineSpec
from firekiln.machine.vmm.tsc import host_tsc_khz
from firekiln.rootfs import cpio
from trees import file, folder

HELLO, PING, PONG, LOG, SHUTDOWN = 1, 2, 3, 4, 5
STARTED, EXITED, FAILED, SIGNAL, STOP, HEALTH, EXEC, RESIZE, CLOSE = range(0x11, 0x1A)
STDIN, STDOUT, STDERR, CREDIT = range(0x20, 0x24)
READ, WRITE, STAT, STATS, TOP = range(0x30, 0x35)
DATA = {STDIN, STDOUT, STDERR, CREDIT, PING, PONG}
HEADER = struct.Struct("<IBBH")


class Wire:
    """The host's end. `expect` reads up to a frame; what came before it is kept in `frames` and `output`."""

    def __init__(self, channel):
        self.channel = channel
        self.buffer = bytearray()
        self.frames = []
        self.output = defaultdict(bytearray)
        channel.setblocking(True)

    def send(self, kind, process=0, payload=b"", **fields):
        data = payload if kind in DATA else json.dumps(fields).encode()
        self.channel.sendall(HEADER.pack(len(data), kind, 0, process) + data)

    def frame(self, timeout):
        deadline = time.monotonic() + timeout
        while len(self.buffer) < 8 or len(self.buffer) < 8 + HEADER.unpack_from(self.buffer)[0]:
            self.channel.settimeout(max(0.01, deadline - time.monotonic()))
            data = self.channel.recv(1 << 18)
            if not data:
                raise EOFError
            self.buffer += data
        length, kind, _, process = HEADER.unpack_from(self.buffer)
        payload = bytes(self.buffer[8 : 8 + length])
        del self.buffer[: 8 + length]
        return kind, process, payload if kind in DATA else json.loads(payload)

    def expect(self, kind, process=None, timeout=120):
        """The payload of the next frame of that kind."""
        while True:
            got, number, payload = self.frame(timeout)
            if got in {STDOUT, STDERR}:
                self.output[number, got] += payload
                if number > 1 and payload:
                    self.send(CREDIT, number, struct.pack("<I", len(payload)))
            elif (got, number) != (kind, process if process is not None else number):
                self.frames.append((got, number, payload))
            if got == kind and number == (process if process is not None else number):
                return payload

    def run(self, number, *argv, stdin=b"", **fields):
        """`exec` to its end: the frame that says so, and its output."""
        self.send(EXEC, number, argv=argv, env=fields.pop("env", []), stdin=bool(stdin), **fields)
        if stdin:
            self.send(STDIN, number, stdin)
            self.send(STDIN, number)
        end = self.expect(EXITED, number)
        return end, self.output.pop((number, STDOUT), b"")


def document(*argv, **fields):
    made = {
        "version": 1,
        "hostname": "box",
        "root": {"layers": [{"serial": "l0"}]},
        "time_ns": time.time_ns(),
        "process": {"argv": argv, "env": ["PATH=/bin:/sbin:/usr/bin"], **fields.pop("process", {})},
    }
    made["root"] |= fields.pop("root", {})
    return made | fields


@contextlib.contextmanager
def guest(kernel, scratch, drives, made, *, memory=256 << 20, shares=(), meanwhile=None):
    """Boot a kernel that needs no modules with these drives; a Wire whose HELLO has been answered.

    `meanwhile` is called with the VMM's process as soon as that runs.
    """
    initramfs = scratch / "initramfs"
    with initramfs.open("wb") as target, (scratch / "part").open("w+b") as part:
        base = base_initramfs(pid1_path("amd64").read_bytes())
        content = file(json.dumps(made).encode(), mode=0o600)
        cpio.write(folder({b"firekiln": folder({b"machine.json": content})}), part.fileno())
        part.seek(0)
        target.write(base + bytes(-len(base) % 4) + part.read())
    spec = MachineSpec(
        name="guest",
        architecture="amd64",
        kernel=kernel,
        initramfs=initramfs,
        drives=tuple(drives),
        memory=memory,
        shares=tuple(shares),
    )
    ours, theirs = socket.socketpair()
    with ours, theirs, (scratch / "console").open("wb") as console:
        argv = qemu_argv(spec, accelerator="tcg", tsc_khz=host_tsc_khz(), channel_fd=theirs.fileno())
        vmm = subprocess.Popen(
            argv, stdin=subprocess.DEVNULL, stdout=console, stderr=console, pass_fds=[theirs.fileno()]
        )
        theirs.close()
        try:
            if meanwhile:
                meanwhile(vmm)
            wire = Wire(ours)
            wire.vmm = vmm
            wire.hello = wire.expect(HELLO)
            wire.send(HELLO, protocol=1, time_ns=time.time_ns())
            yield wire
        finally:
            vmm.kill()
            vmm.wait()


def drive(path, serial, *, readonly=True):
    return BlockDevice(serial=serial, path=path, readonly=readonly)
