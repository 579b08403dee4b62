import os
import shutil
import subprocess
import time
from dataclasses import replace
from pathlib import Path

import pytest

from firekiln.errors import MachineError, MissingProgramError
from firekiln.machine.kernel import catalog, make, own
from firekiln.machine.kernel.apt import Archive
from firekiln.machine.kernel.catalog import NewKernel, Recipe
from firekiln.machine.kernel.make import (
    BuildLog,
    make_argv,
    make_environment,
    missing_packages,
    toolchain,
    unpack_argv,
)
from firekiln.machine.kernel.options import features_of, parse_options, unmet
from firekiln.machine.kernel.own import CONFIGURATION, EDITS, Edit, apply, build, check_options, recipe_digest
from firekiln.store import Store

needs_compiler = pytest.mark.skipif(bool(missing_packages()), reason="needs what a kernel's build needs")


@pytest.fixture
def store(tmp_path):
    with Store.open(tmp_path / "store") as made:
        yield made


def test_options_are_read_from_fragments_and_from_what_kconfig_writes():
    text = (
        '# CONFIG_A=y is only a comment\nCONFIG_B=y\nCONFIG_C="a b"\n# CONFIG_D is not set\nCONFIG_E=-1\nCONFIG_F=n\n'
    )
    assert parse_options(text) == {
        "CONFIG_B": "y",
        "CONFIG_C": '"a b"',
        "CONFIG_D": "n",
        "CONFIG_E": "-1",
        "CONFIG_F": "n",
    }


def test_options_that_did_not_take_effect_are_found_in_both_directions():
    made = parse_options("CONFIG_NET=y\nCONFIG_VT=y\n# CONFIG_MODULES is not set\n")
    wanted = {"CONFIG_NET": "y", "CONFIG_MODULES": "n", "CONFIG_9P_FS": "y", "CONFIG_VT": "n", "CONFIG_GONE": "n"}
    assert unmet(wanted, made) == {"CONFIG_9P_FS": "n", "CONFIG_VT": "y"}


def test_a_refused_option_is_an_error_that_names_it():
    with pytest.raises(MachineError, match=r"1 of the options wanted: CONFIG_9P_FS=y \(it is n\)") as caught:
        check_options({"CONFIG_9P_FS": "y", "CONFIG_NET": "y"}, {"CONFIG_NET": "y"})
    assert "depend" in caught.value.hint


def test_the_shipped_configuration_has_all_that_a_machine_needs_and_no_modules():
    wanted = parse_options(CONFIGURATION.read_text())
    assert wanted["CONFIG_MODULES"] == "n"
    assert "m" not in wanted.values()
    assert {"pvh", "virtio-mmio", "virtio-console", "virtio-rng", "vsock", "overlay", "erofs", "ext4", "squashfs"} <= (
        features_of(wanted)
    )
    for name in "DM_VERITY DM_INIT EFI_PARTITION 9P_FS NET_9P_VIRTIO BRIDGE VETH AUTOFS_FS VMGENID".split():
        assert wanted[f"CONFIG_{name}"] == "y", name


def test_the_shipped_configuration_names_no_option_twice():
    names = [line.partition("=")[0] for line in CONFIGURATION.read_text().splitlines() if line.startswith("CONFIG_")]
    assert len(names) == len(set(names))


def test_a_recipe_is_another_when_an_option_or_an_edit_is_not_when_a_comment_is():
    digest = recipe_digest("CONFIG_A=y\nCONFIG_B=y\n", EDITS)
    assert recipe_digest("# why\nCONFIG_B=y\n\nCONFIG_A=y\n", EDITS) == digest
    assert recipe_digest("CONFIG_A=y\nCONFIG_B=n\n", EDITS) != digest
    assert recipe_digest("CONFIG_A=y\nCONFIG_B=y\n", ()) != digest


def test_an_edit_replaces_its_text_and_refuses_a_tree_that_is_another(tmp_path):
    edit = Edit(file="a/b.c", old="#define N 10\n", new="#define N 2\n")
    with pytest.raises(MachineError, match="not as expected"):
        apply((edit,), tmp_path)
    (tmp_path / "a").mkdir()
    (tmp_path / "a/b.c").write_text("int x;\n#define N 10\n")
    apply((edit,), tmp_path)
    assert (tmp_path / "a/b.c").read_text() == "int x;\n#define N 2\n"
    with pytest.raises(MachineError, match="not as expected"):
        apply((edit,), tmp_path)


def test_make_runs_behind_others_for_one_architecture():
    assert make_argv("-j2", "vmlinux") == ["nice", "-n", "10", "make", "ARCH=x86_64", "-j2", "vmlinux"]


def test_nothing_of_the_callers_surroundings_gets_into_a_kernel(monkeypatch):
    for name in ("CFLAGS", "KCFLAGS", "CROSS_COMPILE", "MAKEFLAGS", "KBUILD_OUTPUT", "USER"):
        monkeypatch.setenv(name, "mine")
    made = make_environment(1_700_000_000)
    assert "mine" not in made.values()
    assert made["SOURCE_DATE_EPOCH"] == "1700000000"
    assert made["KBUILD_BUILD_TIMESTAMP"] == "2023-11-14 22:13:20 UTC"
    assert made["PATH"] == os.environ["PATH"]


def test_compiled_files_are_counted_and_everything_is_logged(tmp_path):
    counts = []
    script = "echo '  HOSTCC  a'; echo '  CC      b.o'; echo '  AS      c.o' >&2; echo '  LD      d'"
    with BuildLog(tmp_path / "log") as log:
        log.run(["sh", "-c", script], tmp_path, make_environment(0), compiled=counts.append)
    assert counts == [1, 2]
    assert (tmp_path / "log").read_text().count("\n") == 4


def test_a_build_that_fails_shows_its_last_lines_and_where_the_rest_is(tmp_path):
    with BuildLog(tmp_path / "log") as log, pytest.raises(MachineError) as caught:
        log.run(["sh", "-c", "seq 100; echo 'x.c:1: error: no'; exit 2"], tmp_path, make_environment(0))
    assert caught.value.message.startswith("sh ended with status 2:\n90\n")
    assert caught.value.message.endswith("x.c:1: error: no")
    assert str(tmp_path / "log") in caught.value.hint
    assert (tmp_path / "log").read_text().startswith("1\n2\n")


def test_the_target_that_failed_is_shown_not_what_others_wrote_after_it(tmp_path):
    script = (
        "echo x.c:1: error: no; echo 'make[2]: *** [Makefile:9: x.o] Error 1'; seq 100; echo 'make: *** [a] Error 2'"
    )
    with BuildLog(tmp_path / "log") as log, pytest.raises(MachineError) as caught:
        log.run(["sh", "-c", script + "; exit 2"], tmp_path, make_environment(0))
    assert caught.value.message.endswith("x.c:1: error: no\nmake[2]: *** [Makefile:9: x.o] Error 1")


def test_of_the_source_only_what_the_build_needs_is_unpacked(tmp_path):
    kept = ["Makefile", "arch/Kconfig", "arch/arm/Kconfig", "arch/x86/a.c", "Documentation/Kconfig", "tools/b/arch/c.h"]
    left = ["arch/arm/a.c", "arch/arm/boot/b.dts", "Documentation/x/y.rst", "tools/testing/t.c"]
    for name in (*kept, *left):
        path = tmp_path / "linux-1" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    subprocess.run(["tar", "-cJf", "linux-1.tar.xz", "linux-1"], cwd=tmp_path, check=True)
    (tmp_path / "to").mkdir()
    subprocess.run(unpack_argv(tmp_path / "linux-1.tar.xz", tmp_path / "to"), check=True)
    made = {str(path.relative_to(tmp_path / "to")) for path in (tmp_path / "to").rglob("*") if path.is_file()}
    assert made == set(kept)


def test_a_build_that_is_interrupted_leaves_no_process(tmp_path):
    def interrupt(_count):
        raise KeyboardInterrupt

    script = "sleep 1000 & echo $! > pid; echo '  CC      a.o'; wait"
    with BuildLog(tmp_path / "log") as log, pytest.raises(KeyboardInterrupt):
        log.run(["sh", "-c", script], tmp_path, make_environment(0), compiled=interrupt)
    pid = int((tmp_path / "pid").read_text())
    deadline = time.monotonic() + 5
    while _runs(pid) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not _runs(pid)


def _runs(pid):
    try:
        with Path(f"/proc/{pid}/stat").open() as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_what_the_host_lacks_is_named_at_once_before_anything_is_fetched(store, tmp_path, monkeypatch):
    (tmp_path / "bin").mkdir()
    for program in ("bison", "make"):
        (tmp_path / "bin" / program).symlink_to("/bin/true")
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    with pytest.raises(MissingProgramError) as caught:
        build(store, archive=Archive(mirror="http://127.0.0.1:9/"))
    words = caught.value.hint.split()
    assert words[:3] == ["apt-get", "install", "--no-install-recommends"]
    assert {"bc", "flex", "gcc", "libelf-dev", "xz-utils"} <= set(words)
    assert not {"bison", "make"} & set(words)


@needs_compiler
def test_a_library_without_its_header_counts_as_missing(monkeypatch):
    monkeypatch.setattr(make, "_HEADERS", {"stdlib.h": "libc6-dev", "no-such.h": "libno-dev"})
    assert missing_packages() == ["libno-dev"]


def own_kernel(source, **changes):
    recipe = Recipe(source=source, configuration=recipe_digest(CONFIGURATION.read_text(), EDITS), compiler=toolchain())
    return NewKernel(
        kind="own",
        version=source,
        architecture="amd64",
        image=b"\x7fELF",
        recipe=replace(recipe, **changes),
    )


@needs_compiler
def test_a_kernel_of_the_same_recipe_is_given_at_once_and_without_the_archive(store, tmp_path):
    nowhere = Archive(keyring=tmp_path / "absent.gpg")
    catalog.add(store.root, own_kernel("6.12.9-1"))
    newer = catalog.add(store.root, own_kernel("6.12.10-1"))
    assert build(store, archive=nowhere) == newer
    assert newer.recipe.source == "6.12.10-1"
    with pytest.raises(MissingProgramError, match="keyring"):
        build(store, archive=nowhere, newest=True)


@needs_compiler
@pytest.mark.parametrize("changes", [{"compiler": "gcc 1.0"}, {"configuration": "0" * 64}])
def test_another_compiler_or_configuration_means_another_kernel(store, tmp_path, changes):
    catalog.add(store.root, own_kernel("6.12.9-1", **changes))
    with pytest.raises(MissingProgramError, match="keyring"):
        build(store, archive=Archive(keyring=tmp_path / "absent.gpg"))


@needs_compiler
def test_nothing_is_left_in_the_store_of_a_build_that_failed(store, tmp_path):
    with pytest.raises(MissingProgramError):
        build(store, archive=Archive(keyring=tmp_path / "absent.gpg"))
    assert list(store.temporary.folder.iterdir()) == []
    assert not catalog.kernels(store.root)


@pytest.mark.skipif(shutil.which("gcc") is None, reason="needs gcc")
def test_the_store_may_not_lie_where_make_cannot_work(tmp_path, monkeypatch):
    monkeypatch.setattr(own, "missing_packages", list)
    monkeypatch.setattr(own, "toolchain", lambda: "gcc")
    with Store.open(tmp_path / "a store") as made, pytest.raises(MachineError, match="blanks or colons"):
        build(made)
