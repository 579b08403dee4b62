"""A kernel of our own: Debian's source package, configured for microVMs; all drivers built in, no modules.

    linux-source-6.12.deb ──▶ tree ──▶ edits ──▶ allnoconfig + microvm.config ──▶ checked ──▶ make vmlinux ──▶ store

Kept with a recipe (source version, digest of configuration and edits, compiler), by which a second call finds it. The
same recipe gives the same bytes: time, user, host and number of the build are fixed, and nothing of the caller's
environment gets into it.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Final

from firekiln.errors import MachineError, MissingProgramError
from firekiln.machine.kernel.apt import Apt, Archive
from firekiln.machine.kernel.catalog import Kernel, NewKernel, Recipe, add, kernels
from firekiln.machine.kernel.make import BuildLog, make_argv, make_environment, missing_packages, toolchain, unpack_argv
from firekiln.machine.kernel.options import features_of, parse_options, unmet
from firekiln.store import Store

SOURCE: Final = "linux-source-6.12"
"""A long-term kernel that Debian 12 has for newer hardware, with security updates."""

CONFIGURATION: Final = Path(__file__).with_name("microvm.config")
_ARCHITECTURE: Final = "amd64"
_FRAGMENT: Final = "firekiln.config"


@dataclass(frozen=True, slots=True, kw_only=True)
class Edit:
    """`old`, which stands exactly once in `file` of the kernel's tree, becomes `new`."""

    file: str
    old: str
    new: str


EDITS: Final = (
    # The local APIC's timer, a microVM's only one, is measured against the TSC for a tenth of a second; nothing else
    # is done meanwhile. Where the VMM loses the processor then the result is wrong, or there is no timer at all:
    # then nothing ends that waits for a time. QEMU's own APIC counts nanoseconds, so there is nothing to be measured.
    Edit(
        file="arch/x86/kernel/apic/apic.c",
        old="\t/*\n\t * Check if lapic timer has already been calibrated by platform\n",
        new='\tif (hypervisor_cpuid_base("TCGTCGTCGTCG", 0))\n\t\tlapic_timer_period = 1000000000 / HZ;\n\n'
        "\t/*\n\t * Check if lapic timer has already been calibrated by platform\n",
    ),
    # Memory of the kernel's own start is filled with a pattern as it is given back, a help in finding bugs. Under TCG
    # each page of it that held code costs, all in all 70 ms. (-1 is the function's own word for "leave it".)
    Edit(
        file="arch/x86/mm/init.c",
        old="\t\t\t\t   POISON_FREE_INITMEM, what);\n",
        new="\t\t\t\t   -1, what);\n",
    ),
)
"""What configuration cannot say. Figures in docs/how-to/kernel.md."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """What is told of a build: each `step`, and how many files are `compiled` so far."""

    step: Callable[[str], None] = lambda _: None
    compiled: Callable[[int], None] = lambda _: None


def build(
    store: Store,
    *,
    newest: bool = False,
    jobs: int | None = None,
    archive: Archive | None = None,
    progress: Progress | None = None,
) -> Kernel:
    """The kernel of our own, from the store where its configuration and compiler are unchanged, else built.

    With `newest` the archive is asked for the source's version first, and that one is given. `jobs` is how many
    compilers run at once, one a processor by default. Nothing is left of a build that fails or is interrupted but its
    log. MissingProgramError where the host lacks a compiler's part, MachineError where the build fails.
    """
    progress = progress or Progress()
    if os.uname().machine != "x86_64":
        raise MachineError(f"the kernel of our own is for x86-64, and this is {os.uname().machine}")
    if missing := missing_packages():
        raise MissingProgramError(
            f"building a kernel needs {', '.join(missing)}",
            hint=f"apt-get install --no-install-recommends {' '.join(missing)}",
        )
    configuration = CONFIGURATION.read_text()
    recipe = Recipe(source="", configuration=recipe_digest(configuration, EDITS), compiler=toolchain())
    if not newest and (known := _find(store, recipe)):
        return known
    folder = store.temporary.folder / "kernel"
    if set(" :\t") & set(str(folder)):
        raise MachineError(f"{folder}: a kernel cannot be built below a path with blanks or colons", hint="use --root")
    archive = archive or Archive()
    (folder / "apt").mkdir(parents=True)
    try:
        apt = Apt(folder / "apt", _ARCHITECTURE, archive)
        progress.step(f"reading {archive.mirror} {archive.suite}")
        apt.update()
        recipe = replace(recipe, source=apt.version(SOURCE))
        if known := _find(store, recipe):
            return known
        progress.step(f"fetching {SOURCE} {recipe.source}")
        deb = apt.download(SOURCE, recipe.source)
        with BuildLog(store.cache_folder("kernel") / "build.log") as log:
            new = _compile(deb, folder, recipe, jobs or os.cpu_count() or 1, log=log, progress=progress)
        return add(store.root, new)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def recipe_digest(configuration: str, edits: tuple[Edit, ...]) -> str:
    """Stands for what we ask of the kernel, comments left out."""
    wanted = sorted(parse_options(configuration).items())
    return hashlib.sha256(json.dumps([wanted, [asdict(edit) for edit in edits]]).encode()).hexdigest()


def apply(edits: tuple[Edit, ...], tree: Path) -> None:
    """Edit the kernel's `tree`. MachineError where the text to replace is not there, or not once."""
    for edit in edits:
        path = tree / edit.file
        text = path.read_text() if path.is_file() else ""
        if text.count(edit.old) != 1:
            raise MachineError(f"{edit.file} of {SOURCE} is not as expected: {edit.old.strip()} is not in it, or twice")
        path.write_text(text.replace(edit.old, edit.new))


def check_options(wanted: Mapping[str, str], made: Mapping[str, str]) -> None:
    """MachineError that names every option of `wanted` which the kernel's own configuration refused."""
    refused = unmet(wanted, made)
    if refused:
        said = ", ".join(f"{name}={wanted[name]} (it is {value})" for name, value in sorted(refused.items()))
        raise MachineError(
            f"{SOURCE} does not take {len(refused)} of the options wanted: {said}",
            hint=f"something they depend on is not set in {CONFIGURATION.name}, or they were renamed",
        )


def _find(store: Store, recipe: Recipe) -> Kernel | None:
    """The newest kernel of that recipe; of any source version where the recipe names none."""
    for kernel in kernels(store.root):
        known = kernel.recipe
        if (
            known is not None
            and (known.configuration, known.compiler) == (recipe.configuration, recipe.compiler)
            and recipe.source in {"", known.source}
        ):
            return kernel
    return None


def _compile(deb: Path, folder: Path, recipe: Recipe, jobs: int, *, log: BuildLog, progress: Progress) -> NewKernel:
    progress.step("unpacking")
    tree, epoch = _unpack(deb, folder, log)
    progress.step("configuring")
    environment = make_environment(epoch)
    options = _configure(tree, environment, log)
    progress.step(f"compiling, {jobs} at a time; the log is {log.path}")
    log.run(make_argv(f"-j{jobs}", "vmlinux"), tree, environment, compiled=progress.compiled)
    return NewKernel(
        kind="own",
        version=recipe.source,
        architecture=_ARCHITECTURE,
        image=(tree / "vmlinux").read_bytes(),
        features=features_of(options),
        recipe=recipe,
    )


def _unpack(deb: Path, folder: Path, log: BuildLog) -> tuple[Path, int]:
    """The kernel's tree, and when Debian packed it, in seconds since the epoch."""
    package, tree = folder / "package", folder / "linux"
    tree.mkdir()
    log.run(["dpkg-deb", "--extract", str(deb), str(package)], folder, make_environment(0))
    archive = package / "usr" / "src" / f"{SOURCE}.tar.xz"
    if not archive.is_file():
        raise MachineError(f"{deb.name} holds no {SOURCE}.tar.xz")
    log.run(unpack_argv(archive, tree), folder, make_environment(0))
    return tree, int(archive.stat().st_mtime)


def _configure(tree: Path, environment: Mapping[str, str], log: BuildLog) -> dict[str, str]:
    apply(EDITS, tree)
    text = CONFIGURATION.read_text()
    (tree / _FRAGMENT).write_text(text)
    log.run(make_argv(f"KCONFIG_ALLCONFIG={_FRAGMENT}", "allnoconfig"), tree, environment)
    options = parse_options((tree / ".config").read_text())
    check_options(parse_options(text), options)
    return options
