"""Stands in for the programs firecracker and jailer, where a test has them on its PATH; run by its own file's name.

It takes their command lines, opens what the requests name as the user and in the root that the jailer gave it, and on
InstanceStart connects to the host as a guest's agent does. STANDIN_API names the API's description, as JSON.
STANDIN_DOES tells it to misbehave: to `die` before it listens, to be `deaf` and never listen, to be an `odd` version.
"""

import argparse
import json
import os
import socket
import sys
import time
from pathlib import Path

from firecrackers import Api, ApiServer

VERSION = "1.15.1"


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
    for name in ("--id", "--api-sock", "--log-path", "--level"):
        parser.add_argument(name)
    given = parser.parse_args(words)
    log = os.open(given.log_path, os.O_RDWR | os.O_NONBLOCK)
    if does("die"):
        os.write(log, b"one line\n[fatal] /dev/kvm: Permission denied\n")
        sys.exit(1)
    if does("deaf"):
        time.sleep(60)
    with ApiServer(api, given.api_sock) as server:
        server.faults["PUT /actions"] = lambda handler: start(handler, server, log)
        time.sleep(600)


def start(handler, server, log):
    bodies = {path: body for method, path, body in server.requests if method == "PUT"}
    for path in (bodies["/boot-source"][key] for key in ("kernel_image_path", "initrd_path")):
        os.close(os.open(path, os.O_RDONLY))
    for path, body in bodies.items():
        if path.startswith("/drives/"):
            mode = os.O_RDONLY if body["is_read_only"] else os.O_RDWR
            os.close(os.open(body["path_on_host"], mode))
    handler.answer(204)
    sys.stdout.write("[    0.000000] Linux version 6.12\n")
    sys.stdout.flush()
    os.write(log, b"[warn] a word of the log\n")
    guest = socket.socket(socket.AF_UNIX)
    guest.connect(f"{bodies['/vsock']['uds_path']}_1024")
    guest.sendall(
        json.dumps({"uid": os.getuid(), "cwd": sorted(path.name for path in Path.cwd().iterdir())}).encode() + b"\n"
    )
    while guest.recv(1 << 16):
        pass


if __name__ == "__main__":
    main()
