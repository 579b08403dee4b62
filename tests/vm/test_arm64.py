"""A machine of another architecture than the host's: arm64 by emulation, with Debian's kernel for it."""

import os
import shutil
import subprocess
import time
from pathlib import Path

import pytest

from firekiln.errors import FirekilnError, MachineError, MissingProgramError
from firekiln.machine.guest.binary import pid1_path
from firekiln.machine.kernel import default_kernel, pull
from firekiln.machine.machine import Machine
from firekiln.machine.run import RunOptions, start
from firekiln.machine.supervision.state import State
from firekiln.store import Store
from machines import output, put_image
from trees import file, folder

PROGRAM = r"""
#include <stdio.h>
#include <string.h>
#include <sys/utsname.h>
#include <sys/vfs.h>
#include <unistd.h>
int main(int argc, char **argv) {
    struct utsname name;
    struct statfs root;
    uname(&name);
    statfs("/", &root);
    printf("%s %s %s %lx\n", name.sysname, name.machine, name.nodename, (unsigned long)root.f_type);
    for (int i = 1; i < argc; i++)
        printf("<%s>", argv[i]);
    printf(" as %d in %s\n", (int)getuid(), getcwd((char[99]){0}, 99));
    FILE *kept = fopen("/kept", "w");
    return kept && fputs("x", kept) >= 0 && !fclose(kept) ? 42 : 1;
}
"""
OVERLAYFS = "794c7630"


@pytest.fixture(scope="module")
def program(tmp_path_factory):
    """A static program for arm64, by the compiler that the guest's PID 1 would be made with."""
    if os.uname().machine == "aarch64":
        pytest.skip("this is no other architecture here")
    compiler = shutil.which("aarch64-linux-gnu-gcc")
    if not compiler:
        pytest.skip("needs gcc-aarch64-linux-gnu and libc6-dev-arm64-cross")
    made = tmp_path_factory.mktemp("program") / "hello"
    subprocess.run([compiler, "-Os", "-static", "-xc", "-", "-o", made], input=PROGRAM, text=True, check=True)
    return made


@pytest.fixture(scope="module")
def arm64_store(request, tmp_path_factory):
    """A store with Debian's kernel for arm64, which is fetched once."""
    if not shutil.which("qemu-system-aarch64"):
        pytest.skip("needs qemu-system-arm")
    kept = Path(request.config.cache.mkdir("firekiln-kernel-arm64"))
    if default_kernel(kept, "arm64") is None:
        try:
            pull(kept, architecture="arm64")
        except FirekilnError as error:
            if isinstance(error, MissingProgramError) or "apt-get" in str(error):
                pytest.skip(f"no kernel: {error}")
            raise
    with Store.open(tmp_path_factory.mktemp("store")) as made:
        for kernel in (kept / "kernels").iterdir():
            (made.kernels / kernel.name).symlink_to(kernel)
        yield made
        state = State(made.machines)
        for record in state.list():
            Machine(state, record.id).remove(force=True)


def test_an_arm64_image_boots_by_emulation_and_nothing_of_it_is_lost(arm64_store, program):
    try:
        pid1_path("arm64")
    except MachineError as error:
        pytest.skip(f"no PID 1 for arm64: {error}")
    layer = folder({b"hello": file(program.read_bytes(), mode=0o755), b"srv": folder()})
    config = {"entrypoint": ("/hello", "a b"), "cmd": ("$c",), "working_dir": "/srv"}
    put_image(arm64_store, "arm", layer, platform="linux/arm64", **config)
    begun = time.monotonic()
    with start(arm64_store, RunOptions(image="arm", hostname="bert")) as machine:
        assert machine.wait(timeout=90) == 42
        first, second = output(machine).splitlines()
        assert first.split() == ["Linux", "aarch64", "bert", OVERLAYFS]
        assert second == "<a b><$c> as 0 in /srv"
    assert time.monotonic() - begun < 90
