"""Stands in for the programs firecracker and jailer, where a test has them on its PATH; run by its own file's name.

It takes their command lines, opens what the requests name as the user and in the root that the jailer gave it, and on
InstanceStart connects to the host as a guest's agent does. STANDIN_API names the API's description, as JSON.
STANDIN_DOES tells it to misbehave: to `die` before it listens, to be `deaf` and never listen, of an `odd` version,
or `hopeless` as a KVM may be.
"""

import argparse
import json
import os
import socket
import struct
import sys
import time
from pathlib import Path

from firecrackers import Api, ApiServer

VERSION = "1.15.1"
HELLO, SHUTDOWN, STARTED, EXITED, STOP, STDOUT = 0x01, 0x05, 0x11, 0x12, 0x15, 0x21


def main():
    role, words = Path(sys.argv[0]).name, sys.argv[1:]
    if words == ["--version"]:
        print(f"{role.title()} v{'1.14.3' if does('odd') else VERSION}")
        return
    api = Api(json.loads(Path(os.environ["STANDIN_API"]).read_text()))
    if role == "jailer":
        words = jail(words)
    firecracker(words, api)


def does(what):
    return os.environ.get("STANDIN_DOES") == what


def jail(words):
    """Change root, group and user as the jailer does; what is left are Firecracker's words."""
    cut = words.index("--")
    parser = argparse.ArgumentParser()
    for name in ("--id", "--exec-file", "--chroot-base-dir", "--netns", "--cgroup-version", "--parent-cgroup"):
        parser.add_argument(name)
    for name in ("--uid", "--gid"):
        parser.add_argument(name, type=int)
    for name in ("--cgroup", "--resource-limit"):
        parser.add_argument(name, action="append")
    given = parser.parse_args(words[:cut])
    root = Path(given.chroot_base_dir, Path(given.exec_file).name, given.id, "root")
    os.chroot(root)
    os.chdir("/")
    os.setgroups([])
    os.setresgid(given.gid, given.gid, given.gid)
    os.setresuid(given.uid, given.uid, given.uid)
    return [*words[cut + 1 :], "--id", given.id]


def firecracker(words, api):
    parser = argparse.ArgumentParser()
    for name in ("--id", "--api-sock", "--log-path", "--level", "--config-file"):
        parser.add_argument(name)
    parser.add_argument("--no-api", action="store_true")
    given = parser.parse_args(words)
    if given.no_api:
        probe(json.loads(Path(given.config_file).read_text()))
        return
    log = os.open(given.log_path, os.O_RDWR | os.O_NONBLOCK)
    if does("die"):
        os.write(log, b"one line\n[fatal] /dev/kvm: Permission denied\n")
        sys.exit(1)
    if does("deaf"):
        time.sleep(60)
    with ApiServer(api, given.api_sock) as server:
        server.faults["PUT /actions"] = lambda handler: start(handler, server, log)
        server.over.wait()


def probe(configuration):
    """A kernel without a root; where KVM is hopeless, it never says a word."""
    if does("hopeless"):
        time.sleep(60)
    assert Path(configuration["boot-source"]["kernel_image_path"]).is_file()
    print("[    0.000000] Linux version 6.12\n[    0.10] Kernel panic - not syncing: VFS: Unable to mount root fs")


def start(handler, server, log):
    bodies = {path: body for method, path, body in server.requests if method == "PUT"}
    kernel, initramfs = (Path(bodies["/boot-source"][key]) for key in ("kernel_image_path", "initrd_path"))
    os.close(os.open(kernel, os.O_RDONLY))
    archive = initramfs.read_bytes()
    drives = [body for path, body in bodies.items() if path.startswith("/drives/")]
    for body in drives:
        mode = os.O_RDONLY if body["is_read_only"] else os.O_RDWR
        os.close(os.open(body["path_on_host"], mode))
    handler.answer(204)
    sys.stdout.write("[    0.000000] Linux version 6.12\n")
    sys.stdout.flush()
    os.write(log, b"[warn] a word of the log\n")
    with socket.socket(socket.AF_UNIX) as stream:
        stream.connect(f"{bodies['/vsock']['uds_path']}_1024")
        Guest(stream, document_in(archive), drives).run()
    os._exit(0)


def document_in(archive):
    """The machine document, by the bytes that begin it; a guest would unpack the archive. None where there is none."""
    place = archive.rfind(b'{"version":')
    return json.JSONDecoder().raw_decode(archive[place:].decode(errors="replace"))[0] if place >= 0 else None


class Guest:
    """An agent of a few words (guest/PROTOCOL.md): its process says what it sees, and ends as its argv tells."""

    def __init__(self, stream, document, drives):
        self._stream = stream
        self._document = document or {"process": {"argv": ["/exit", "0"]}, "root": {}}
        self._drives = drives

    def run(self):
        self._send(HELLO, 0, {"protocol": 1, "oldest": 1, "uptime_ms": 1})
        self._receive(HELLO)
        self._send(STARTED, 1, {"pid": 7, "uid": 0, "uptime_ms": 2})
        names = sorted(path.name for path in Path.cwd().iterdir())
        seen = {"uid": os.getuid(), "cwd": names, "root": self._document["root"], "drives": self._drives}
        self._send(STDOUT, 1, json.dumps(seen) + "\n")
        self._send(STDOUT, 1, b"")
        word, *rest = self._document["process"]["argv"]
        if word == "/wait":
            self._receive(STOP)
        if word == "/panic":
            os._exit(0)
        self._send(EXITED, 1, {"code": int(rest[0]) if rest else 0})
        self._receive(SHUTDOWN)

    def _send(self, kind, process, payload):
        data = json.dumps(payload).encode() if isinstance(payload, dict) else payload
        data = data.encode() if isinstance(data, str) else data
        self._stream.sendall(struct.pack("<IBBH", len(data), kind, 0, process) + data)

    def _receive(self, wanted):
        kind = None
        while kind != wanted:
            size, kind, _, _ = struct.unpack("<IBBH", self._exactly(8))
            self._exactly(size)

    def _exactly(self, size):
        data = b""
        while len(data) < size:
            part = self._stream.recv(size - len(data))
            if not part:
                os._exit(0)
            data += part
        return data


if __name__ == "__main__":
    main()
