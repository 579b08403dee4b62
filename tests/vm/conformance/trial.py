"""A case tried on an engine: built, booted and looked at by the commands that `docker` and `firekiln` share."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from secrets import token_hex
from typing import Any

from case import PARENT, Case, Told

SECONDS = 600
"""Within which a command ends, a machine says "ready", and a health becomes what it has to: no promise of ours."""
_PAUSE = 0.05


@dataclass(frozen=True, kw_only=True)
class Engine:
    """A command line, `firekiln` or `docker`, with what it needs beyond the words that both understand."""

    argv: tuple[str, ...]
    ours: bool = False
    environment: Mapping[str, str] = field(default_factory=dict)
    for_build: tuple[str, ...] = ()
    for_run: tuple[str, ...] = ()

    def __call__(self, *words: str, text: str | None = None) -> subprocess.CompletedProcess[str]:
        environment = {**os.environ, **self.environment}
        line = [*self.argv, *words]
        return subprocess.run(
            line, input=text, capture_output=True, text=True, check=False, timeout=SECONDS, env=environment
        )

    def read(self, *words: str) -> str:
        """What a command writes that has to succeed."""
        done = self(*words)
        assert done.returncode == 0, (words, done.stderr)
        return done.stdout

    def build(self, text: str, context: Path, *options: str, file: str = "") -> subprocess.CompletedProcess[str]:
        if file:
            (context / file).write_text(text)
        named = str(context / file) if file else "-"
        words = ("build", "-q", *self.for_build, *options, "-f", named, str(context))
        return self(*words, text=None if file else text)


@dataclass(frozen=True, kw_only=True)
class Trial:
    """Of a case on an engine. `places` are what stands for the words between @ in its text and options."""

    engine: Engine
    case: Case
    context: Path
    places: Mapping[str, str]

    def run(self) -> Told:
        """Build, boot and look; what was told. Raise AssertionError where something else is not as it should be."""
        image = self._image()
        if image is None:
            return Told(refused=True)
        for path, value in self.case.image.items():
            assert _at(json.loads(self.engine.read("image", "inspect", image))[0], path) == value, path
        return self._boot(image) if self.case.boots else Told()

    def _image(self) -> str | None:
        """The image's digest, or None where the build was refused as it has to be."""
        case = self.case
        if case.parent:
            done = self.engine.build(case.parent, self.context, "-t", PARENT)
            assert done.returncode == 0, done.stderr
        options = [self._placed(word) for word in case.build]
        done = self.engine.build(self._placed(case.base + case.text), self.context, *options, file=case.dockerfile)
        if done.returncode == 0:
            return done.stdout.strip()
        self._check_refusal(done.stderr)
        return None

    def _check_refusal(self, message: str) -> None:
        """Docker's old words are its own; ours are to tell why, and never to be a traceback."""
        assert self.case.refused or self.case.docker, message
        assert "Traceback" not in message
        if self.engine.ours:
            assert re.search(self.case.refused, message), message

    def _boot(self, image: str) -> Told:
        case, name = self.case, f"conformance-{token_hex(4)}"
        words = ("run", "--name", name, *self.engine.for_run, *case.options)
        waits = case.stop or case.health
        try:
            done = self.engine(*words, *(("-d",) if waits else ()), image, *case.args)
            if waits:
                assert done.returncode == 0, done.stderr
                return self._end(name)
            if case.config:
                config = json.loads(self.engine.read("inspect", name))[0]["Config"]
                assert {key: config.get(key) for key in case.config} == case.config
            return Told(says=done.stdout, status=done.returncode)
        finally:
            self.engine("rm", "-f", "-v", name)

    def _end(self, name: str) -> Told:
        """Wait until the machine is ready and its health is known, and stop it."""
        engine, case = self.engine, self.case
        deadline = time.monotonic() + SECONDS
        while "ready" not in engine.read("logs", name):
            assert time.monotonic() < deadline, "it is never ready"
            time.sleep(_PAUSE)
        health = self._health(name) if case.health else ""
        engine.read("stop", "-t", str(case.stop), name)
        return Told(status=int(engine.read("wait", name)), says=engine.read("logs", name), health=health)

    def _health(self, name: str) -> str:
        """What becomes of the health, once there were as many checks as the case wants."""
        unsettled = {"", "starting"} - {self.case.health}
        deadline = time.monotonic() + SECONDS
        while True:
            health = json.loads(self.engine.read("inspect", name))[0]["State"].get("Health", {})
            if health.get("Status", "") not in unsettled and len(health.get("Log") or ()) >= self.case.checks:
                return health["Status"]
            assert time.monotonic() < deadline, health
            time.sleep(_PAUSE)

    def _placed(self, text: str) -> str:
        for word, place in {"CONTEXT": str(self.context), **self.places}.items():
            text = text.replace(f"@{word}@", place)
        return text


def own_context(case: Case, context: Path, folder: Path) -> Path:
    """The context, or a copy of it with the case's own files."""
    if not case.files and not case.dockerfile:
        return context
    made = shutil.copytree(context, folder / "context")
    for name, text in case.files.items():
        (made / name).write_text(text)
    return made


def _at(document: Any, path: str) -> Any:
    for key in path.split("."):
        document = document.get(key)
    return document
