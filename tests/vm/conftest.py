"""A store with a kernel and small images, and machines that are gone when their test is."""

import shutil
import subprocess
from pathlib import Path

import pytest

from firekiln.errors import FirekilnError, MissingProgramError
from firekiln.machine.kernel import default_kernel, kernels, pull
from firekiln.machine.machine import Machine
from firekiln.machine.run import RunOptions, start
from firekiln.machine.state import State
from firekiln.store import Store, store_root
from machines import BUSYBOX, argv, busybox, put_image


def pytest_collection_modifyitems(items):
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.vm)


@pytest.fixture(scope="session")
def kernel_folder(request):
    """A folder with `kernels/`, kept between runs of the tests: Debian's, fetched once."""
    if not shutil.which("qemu-system-x86_64"):
        pytest.skip("needs qemu-system-x86_64")
    root = Path(request.config.cache.mkdir("firekiln-kernel"))
    if default_kernel(root, "amd64") is None:
        known = next((kernel for kernel in kernels(store_root()) if kernel.kind == "debian"), None)
        if known is not None:
            folder = known.image.parent
            shutil.copytree(folder, root / "kernels" / folder.name)
        else:
            try:
                pull(root)
            except FirekilnError as error:
                if isinstance(error, MissingProgramError) or "apt-get" in str(error):
                    pytest.skip(f"no kernel: {error}")
                raise
    return root


@pytest.fixture(scope="module")
def store(kernel_folder, tmp_path_factory):
    """A store that holds a kernel and the image `busybox`."""
    if not BUSYBOX.exists():
        pytest.skip("needs busybox-static")
    with Store.open(tmp_path_factory.mktemp("store")) as made:
        for kernel in kernels(kernel_folder):
            folder = kernel.image.parent
            (made.kernels / folder.name).symlink_to(folder)
        put_image(made, "busybox", busybox(), cmd=("/bin/sh",))
        yield made
        state = State(made.machines)
        for record in state.list():
            Machine(state, record.id).remove(force=True)


@pytest.fixture
def boot(store):
    """Start machines in the background; whatever becomes of the test, they end with it."""
    machines = []

    def start_one(*args, image="busybox", **options):
        machine = start(store, RunOptions(image=image, args=args, **options))
        machines.append(machine)
        return machine

    yield start_one
    for machine in machines:
        machine.__exit__(None, None, None)


@pytest.fixture
def firekiln(store):
    """Run the command line on the store: a function that returns the completed process."""

    def command(*args, **options):
        return subprocess.run(argv(store, *args), capture_output=True, check=False, timeout=60, **options)

    return command
