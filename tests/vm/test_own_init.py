"""Images whose own init is PID 1: a small one of busybox's, and Debian with each of its inits."""

import time

import pytest

from firekiln import api
from firekiln.errors import FirekilnError
from firekiln.machine.supervision.state import State
from firekiln.store import Store
from machines import busybox, output, put_image
from trees import file, folder, link

DEADLINE = 120
INITTAB = b"::sysinit:/etc/init.d/rc 2 S start\n::shutdown:/etc/init.d/rc 0 K stop\n"
RC = b"#!/bin/sh\nfor script in /etc/rc$1.d/$2*; do $script $3; done\n"


@pytest.fixture(scope="module")
def image(store):
    """A system of busybox: init, a run level, power-off."""
    tree = busybox()
    scripts = folder({b"rc": file(RC, mode=0o755)})
    etc = {**tree.children[b"etc"].children, b"inittab": file(INITTAB), b"rc2.d": folder(), b"init.d": scripts}
    sbin = folder({b"init": link(b"../bin/busybox"), b"poweroff": link(b"../bin/busybox")})
    whole = folder({**tree.children, b"etc": folder(etc), b"sbin": sbin})
    return put_image(store, "whole", whole, cmd=("sh", "-c", "echo nothing to do")).digest


def wait_for(machine, text):
    deadline = time.monotonic() + DEADLINE
    while text not in output(machine):
        assert time.monotonic() < deadline, output(machine) + output(machine, "stderr")
        time.sleep(0.05)


def test_a_command_is_a_service_of_the_image_s_init(firekiln, image):
    script = 'cat /proc/1/comm; pwd; echo "$A"; head -c 4 /etc/machine-id | wc -c; echo err >&2; exit 7'
    options = ("--rm", "--init=image", "-w", "/new/place", "-e", "A=it's $HOME", "-e", "B.C=1")
    done = firekiln("run", *options, "whole", "sh", "-c", script)
    assert (done.returncode, done.stdout) == (7, b"init\n/new/place\nit's $HOME\n4\n"), done
    assert done.stderr == b"err\n"


def test_the_init_stops_its_service_in_order_and_ends_the_machine(boot, image, firekiln):
    # SIGQUIT is ignored by what a shell starts in the background, and a shell heeds that: it has to be undone.
    script = "trap 'echo stopped in order; exit 3' QUIT; echo up; while :; do sleep 0.1; done"
    machine = boot("sh", "-c", script, image="whole", init="image", stop_signal="SIGQUIT")
    wait_for(machine, "up\n")
    done = firekiln("exec", machine.id, "sh", "-c", "cat /proc/1/comm; cat /etc/firekiln/app | grep -c connect")
    assert (done.returncode, done.stdout) == (0, b"init\n1\n"), done
    assert firekiln("stop", "-t", "30", machine.id).returncode == 0
    assert output(machine) == "up\nstopped in order\n"
    assert machine.record.exit_status == 3


def test_an_image_without_an_init_says_so(firekiln):
    done = firekiln("run", "--init=image", "busybox", "true")
    assert done.returncode == 125
    assert b"the image holds no init" in done.stderr


@pytest.fixture(scope="module")
def debian(own_kernel, tmp_path_factory):
    """A store with our own kernel, to bootstrap Debian in: Debian's kernel would take twice as long."""
    with Store.open(tmp_path_factory.mktemp("debian")) as made:
        (made.kernels / own_kernel.image.parent.name).symlink_to(own_kernel.image.parent)
        yield made


@pytest.mark.slow
@pytest.mark.parametrize(("init", "process"), [("systemd", "systemd"), ("sysvinit", "init"), ("openrc", "init")])
def test_debian_boots_with_its_own_init_and_runs_the_command(debian, init, process):
    from firekiln.machine.options import RunOptions
    from firekiln.machine.run import start

    try:
        image = api.create_base(f"debian:bookworm-slim-{init}", store=debian)
    except FirekilnError as error:
        pytest.skip(f"no base: {error}")
    script = 'cat /proc/1/comm; id -u; id -G; pwd; echo "$A"; exit 7'
    options = RunOptions(
        image=image.references[0],
        args=("sh", "-c", script),
        init="image",
        user="www-data",
        groups=("adm",),
        working_dir="/srv/new",
        env=("A=it's 50% $HOME",),
    )
    with start(debian, options) as machine:
        assert machine.wait(600) == 7
        assert output(machine) == f"{process}\n33\n33 4\n/srv/new\nit's 50% $HOME\n"
    assert State(debian.machines).list() == []
