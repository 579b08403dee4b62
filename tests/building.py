"""Whole builds for the tests of semantics: a context of small files on busybox, and what a build said, by stage."""

from __future__ import annotations

import shutil
from collections import defaultdict
from pathlib import Path

import firekiln
from firekiln.build.events import Cached, Completed, Output, Started
from firekiln.store import Store

BUSYBOX = shutil.which("busybox")
PROGRAMS = "sh cat cp echo env id ls mkdir mount pwd readlink rm stat test touch true umask".split()

PASSWD = "root:x:0:0:root:/root:/bin/sh\nbob:x:7:8::/home/bob:/bin/sh\n"
GROUP = "root:x:0:\nbob:x:8:\ngrp:x:9:bob\nsup:x:10:bob\n"


def write_base(folder: Path) -> None:
    """The files of a base system like the golden files': busybox, passwd, group, and /t."""
    (folder / "bin").mkdir(parents=True)
    shutil.copy(BUSYBOX, folder / "bin/busybox")
    for program in PROGRAMS:
        (folder / "bin" / program).symlink_to("busybox")
    (folder / "etc").mkdir()
    (folder / "etc/passwd").write_text(PASSWD)
    (folder / "etc/group").write_text(GROUP)
    (folder / "t/exist").mkdir(parents=True)
    (folder / "t/exist").chmod(0o1777)
    (folder / "t/real").mkdir()
    (folder / "t/file").write_text("old\n")
    (folder / "t/lnd").symlink_to("real")
    (folder / "t/lnf").symlink_to("file")


class Builds:
    """Builds with one context and one store. `events` are the last build's."""

    def __init__(self, folder: Path) -> None:
        self.context = folder / "context"
        self.context.mkdir()
        self.root = folder / "store"
        self.events = []

    def build(self, text: str, **options):
        self.events = []
        options = {"dockerfile": text.encode(), "store": self.root, "on_event": self.events.append, **options}
        return firekiln.build(self.context, **options)

    def outputs(self) -> dict[str, str]:
        """What the steps of each stage wrote."""
        data = defaultdict(bytes)
        for event in self.events:
            if isinstance(event, Output):
                data[event.task.stage] += event.data
        return {stage: written.decode() for stage, written in data.items()}

    def ends(self) -> dict[str, str]:
        """Each vertex by name: `CACHED`, or `RUN` where it was carried out."""
        made = {}
        for event in self.events:
            if isinstance(event, Cached):
                made[event.task.name] = "CACHED"
            elif isinstance(event, Started | Completed):
                made[event.task.name] = "RUN"
        return made

    def tree(self, image):
        """The merged Tree of a built image. The store may be closed: its files stay."""
        with Store.open(self.root) as store:
            return store.layers.merged(image.layers)
