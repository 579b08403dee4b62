import pytest

from exporting import MODULES, add_kernel, lower, upper
from firekiln.rootfs.tree import Whiteout
from firekiln.store import Store
from machines import put_image


@pytest.fixture
def store(tmp_path):
    with Store.open(tmp_path / "store") as made:
        add_kernel(made, *MODULES)
        yield made


@pytest.fixture
def image(store):
    top = upper()
    top.children[b"etc"] = type(top)(meta=top.meta, children={b"gone": Whiteout()})
    return put_image(store, "app:1", lower(), top, cmd=("/bin/app", "a b"), env=("A=1",), user="7", labels={"l": "x"})


@pytest.fixture
def merged(store, image):
    return store.layers.merged(image.layers)
