"""The builders that benchmarks/build.py compares, each with its data in a folder of the benchmark's own.

`build` runs one build and waits for it; `boot` takes an image as far as a virtual machine needs it. Containers share
the host's network with all of them: the mirror is on 127.0.0.1.
"""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

BASE = "debian:bookworm-slim"
DAEMON_SECONDS = 60
GROUP = "firekiln-benchmark"


class BuilderError(Exception):
    """A builder that cannot be measured, and why."""


class Builder:
    name: str
    program: str
    boots = False
    processes: tuple[str, ...]
    """Names of the processes whose memory is the builder's; those of the steps are not."""

    def version(self) -> str:
        raise NotImplementedError

    def prepare(self, base: Path) -> None:
        """Take up the base image from an archive of its files."""

    def build(self, context: Path, dockerfile: Path, tag: str, *, arguments: Mapping[str, str], cold: bool) -> None:
        raise NotImplementedError

    def boot(self, tag: str, folder: Path) -> None:
        """Have what a virtual machine boots: a root file system on a disk. Measured where `boots` is true."""
        raise NotImplementedError

    def tidy(self, tag: str) -> None:
        """Forget an image and what its build left, so that the disk does not fill."""


class Firekiln(Builder):
    name = "firekiln"
    boots = True
    processes = ("firekiln", "python")

    def __init__(self, data: Path) -> None:
        self._root = data / "firekiln"
        self.program = str(Path(sys.executable).with_name("firekiln"))
        if not Path(self.program).exists():
            raise BuilderError(f"{self.program} is not there: install the package where this Python is")
        self._command = [self.program, "--root", str(self._root)]

    def version(self) -> str:
        return output([self.program, "--version"])

    def save_base(self, path: Path) -> None:
        """The base image's files, which every builder gets; made of Debian's packages where no store has it."""
        dockerfile = path.with_name("base.Dockerfile")
        dockerfile.write_text(f'FROM {BASE}\nCMD ["true"]\n')
        run([*self._command, "build", "-q", "-t", "base", "-f", str(dockerfile), str(path.parent)])
        run([*self._command, "export", "-q", "base", "-o", f"type=tar,dest={path}"])

    def build(self, context: Path, dockerfile: Path, tag: str, *, arguments: Mapping[str, str], cold: bool) -> None:
        options = [*build_arguments(arguments), *(["--no-cache"] if cold else [])]
        run([*self._command, "build", "-q", "-t", tag, "-f", str(dockerfile), *options, str(context)])

    def boot(self, tag: str, folder: Path) -> None:
        """Nothing: a machine's drives are the layers."""

    def tidy(self, tag: str) -> None:
        run([*self._command, "rmi", tag])


class Docker(Builder):
    name = "Docker"
    boots = True
    processes = ("dockerd", "containerd", "containerd-shim", "docker", "runc")

    def __init__(self, data: Path) -> None:
        # Debian's client, where another one lies before it on the PATH: it belongs to the daemon.
        client = shutil.which("docker", path=f"/usr/bin{os.pathsep}{os.environ['PATH']}")
        self._daemon = shutil.which("dockerd", path=f"/usr/sbin{os.pathsep}{os.environ['PATH']}")
        if client is None or self._daemon is None:
            raise BuilderError("docker.io is not installed")
        self.program = client
        self._data = data / "docker"
        self._data.mkdir()
        self._socket = self._data / "socket"
        self._environment = {**os.environ, "DOCKER_BUILDKIT": "1", "DOCKER_CONFIG": str(self._data / "config")}
        self._command = [self.program, "-H", f"unix://{self._socket}"]

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        """The daemon. Its own containerd runs below it and ends with it."""
        with (self._data / "log").open("wb") as log:
            daemon = subprocess.Popen(
                [
                    str(self._daemon), "--cgroup-parent", f"/{GROUP}", "--iptables=false", "--bridge=none",
                    "--data-root", str(self._data / "root"), "--exec-root", str(self._data / "run"),
                    "--pidfile", str(self._data / "pid"), "-H", f"unix://{self._socket}",
                ],
                stdout=log, stderr=log, start_new_session=True,
            )  # fmt: skip
        try:
            self._await(daemon)
            yield
        finally:
            daemon.terminate()
            try:
                daemon.wait(DAEMON_SECONDS)
            except subprocess.TimeoutExpired:
                os.killpg(daemon.pid, signal.SIGKILL)
                daemon.wait()
            remove_groups()

    def _await(self, daemon: "subprocess.Popen[bytes]") -> None:
        deadline = time.monotonic() + DAEMON_SECONDS
        while time.monotonic() < deadline and daemon.poll() is None:
            if subprocess.run([*self._command, "version"], capture_output=True, check=False).returncode == 0:
                return
            time.sleep(0.2)
        words = (self._data / "log").read_text(errors="replace").splitlines()[-1:]
        raise BuilderError(f"dockerd does not start: {' '.join(words)}")

    def version(self) -> str:
        found = json.loads(output([*self._command, "version", "--format", "{{json .Server}}"]))
        return f"Docker {found['Version']} with BuildKit"

    def prepare(self, base: Path) -> None:
        run([*self._command, "import", str(base), BASE])

    def build(self, context: Path, dockerfile: Path, tag: str, *, arguments: Mapping[str, str], cold: bool) -> None:
        options = [*build_arguments(arguments), *(["--no-cache"] if cold else [])]
        common = ["build", "-q", "--network", "host", "-t", tag, "-f", str(dockerfile)]
        run([*self._command, *common, *options, str(context)], environment=self._environment)

    def boot(self, tag: str, folder: Path) -> None:
        """The shortest way that its users have: export a container into a new ext4 image."""
        disk, mounted = folder / "disk.ext4", folder / "mounted"
        mounted.mkdir()
        with disk.open("wb") as file:
            file.truncate(8 << 30)
        run(["mkfs.ext4", "-q", "-F", str(disk)])
        run(["mount", "-o", "loop", str(disk), str(mounted)])
        try:
            container = output([*self._command, "create", tag])
            export = subprocess.Popen([*self._command, "export", container], stdout=subprocess.PIPE)
            run(["tar", "-x", "-C", str(mounted)], stdin=export.stdout)
            if export.wait() != 0:
                raise BuilderError("docker export failed")
        finally:
            run(["umount", str(mounted)])
        run([*self._command, "rm", container])

    def tidy(self, tag: str) -> None:
        run([*self._command, "rmi", "-f", tag])


class Buildah(Builder):
    name = "buildah"
    processes = ("buildah",)

    def __init__(self, data: Path) -> None:
        program = shutil.which("buildah")
        if program is None:
            raise BuilderError("buildah is not installed")
        self.program = program
        self._data = data / "buildah"
        self._data.mkdir()
        folders = ["--root", str(self._data / "root"), "--runroot", str(self._data / "run")]
        self._command = [program, "--storage-driver", "vfs", *folders]

    def version(self) -> str:
        return f"buildah {output([self.program, '--version']).split()[2]}"

    def prepare(self, base: Path) -> None:
        container = output([*self._command, "from", "scratch"])
        run([*self._command, "add", container, str(base), "/"])
        run([*self._command, "commit", "-q", container, BASE])
        run([*self._command, "rm", container])

    def build(self, context: Path, dockerfile: Path, tag: str, *, arguments: Mapping[str, str], cold: bool) -> None:
        """Without `--layers`, its default, a build is faster and leaves nothing to the next one."""
        options = [*build_arguments(arguments), "--no-cache" if cold else "--layers"]
        common = ["bud", "-q", "--isolation", "chroot", "--pull-never", "-t", tag, "-f", str(dockerfile)]
        run([*self._command, *common, *options, str(context)])

    def tidy(self, tag: str) -> None:
        run([*self._command, "rmi", "-f", tag])
        run([*self._command, "rmi", "--prune", "-f"])


def remove_groups() -> None:
    """The control groups that dockerd made for its containers, and forgets."""
    for top in (*Path("/sys/fs/cgroup").glob(GROUP), *Path("/sys/fs/cgroup").glob(f"*/{GROUP}")):
        for folder, _, _ in os.walk(top, topdown=False):
            with contextlib.suppress(OSError):
                Path(folder).rmdir()


def build_arguments(arguments: Mapping[str, str]) -> list[str]:
    return [word for name, value in arguments.items() for word in ("--build-arg", f"{name}={value}")]


def run(argv: list[str], *, environment: Mapping[str, str] | None = None, stdin=None) -> None:
    done = subprocess.run(argv, stdin=stdin, capture_output=True, env=environment, check=False)
    if done.returncode != 0:
        said = done.stderr.decode(errors="replace").strip().splitlines()[-8:]
        raise BuilderError("\n  ".join([f"{' '.join(argv[:6])} … failed:", *said]))


def output(argv: list[str]) -> str:
    return subprocess.run(argv, stdout=subprocess.PIPE, text=True, check=True).stdout.strip()
