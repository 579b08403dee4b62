"""A store with a kernel and small images, and machines that are gone when their test is."""

import shutil
import subprocess
from pathlib import Path

import pytest

from firekiln.errors import FirekilnError, MissingProgramError
from firekiln.machine.kernel import default_kernel, generic_kernels, kernels, pull, pull_generic
from firekiln.machine.kernel.own import CONFIGURATION, EDITS, recipe_digest
from firekiln.machine.machine import Machine
from firekiln.machine.options import RunOptions
from firekiln.machine.run import start
from firekiln.machine.supervision.state import State
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
    wanted = frozenset({"dm-verity"})
    if default_kernel(root, "amd64", features=wanted) is None:
        ours = (kernel for kernel in kernels(store_root()) if kernel.kind == "debian" and wanted <= kernel.features)
        _fill(root, next(ours, None), pull)
    return root


@pytest.fixture(scope="session")
def generic_kernel(request):
    """Debian's kernel for disks, fetched once."""
    root = Path(request.config.cache.mkdir("firekiln-kernel"))
    if not generic_kernels(root):
        _fill(root, next(iter(generic_kernels(store_root())), None), pull_generic)
    return generic_kernels(root)[0]


@pytest.fixture(scope="session")
def own_kernel(request):
    """Our own kernel, of the configuration as it is now: this host's, or the one that `scripts/test --all` builds."""
    wanted = recipe_digest(CONFIGURATION.read_text(), EDITS)
    for root in (store_root(), Path(request.config.cache.mkdir("firekiln-own-kernel"))):
        for kernel in kernels(root):
            if kernel.recipe is not None and kernel.recipe.configuration == wanted:
                return kernel
    pytest.skip("there is no kernel of our own: firekiln kernel build, or scripts/test --all")


def _fill(root, known, fetch):
    """Put a kernel of this host's store into the folder, else fetch it."""
    if known is not None:
        folder = known.image.parent
        shutil.copytree(folder, root / "kernels" / folder.name)
        return
    try:
        fetch(root)
    except FirekilnError as error:
        if isinstance(error, MissingProgramError) or "apt-get" in str(error):
            pytest.skip(f"no kernel: {error}")
        raise


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
