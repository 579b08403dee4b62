"""Build checks that need the plan: expanded words, base images, and which stages are built at all.

What the text alone tells is `dockerfile/lint.py`'s. Functions report to a `Planning`; each is called where BuildKit
makes the same check.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence

from firekiln.build.plan.state import Planning, StageState
from firekiln.dockerfile import rules
from firekiln.dockerfile.expand import Expansion
from firekiln.dockerfile.instructions import Cmd, Entrypoint, Env, Healthcheck, KeyValue, Label, Stage, Workdir
from firekiln.dockerfile.suggestions import did_you_mean
from firekiln.errors import Location
from firekiln.oci.platform import Platform

_SECRET = re.compile(
    r"(?:_|^)(?:apikey|auth|credential|credentials|key|password|pword|passwd|secret|token)(?:_|$)", re.IGNORECASE
)
_NO_SECRET = re.compile(r"(?:_|^)(?:public|file|version)(?:_|$)", re.IGNORECASE)


# --- FROM -----------------------------------------------------------------------------------------------------------


def undeclared(planning: Planning, made: Expansion, stage: Stage) -> None:
    """Variables of FROM that no ARG above the first FROM declares."""
    known = {*planning.args, *planning.declared}
    for name in sorted(made.unset - known):
        message = f"FROM uses {name}, which no ARG declares{did_you_mean(name, known)}"
        planning.warn(rules.UNDEFINED_ARG_IN_FROM.warn(message, stage.location, span=name))


def platform(planning: Planning, made: Expansion, stage: Stage) -> None:
    """`--platform`, expanded: what FROM does anyway, or a constant in a stage that isn't named for it."""
    written, where = stage.base.platform, stage.location
    if made.used == {"TARGETPLATFORM"} and not made.unset and made.text == planning.args["TARGETPLATFORM"]:
        message = f"--platform={written} is what FROM does without it"
        planning.warn(rules.REDUNDANT_TARGET_PLATFORM.warn(message, where, span=f"--platform={written}"))
    if made.used or made.unset:
        return
    try:
        parsed = Platform.parse(made.text)
    except ValueError:
        return
    if parsed.os not in stage.name and parsed.architecture not in stage.name:
        message = f'FROM --platform has the constant value "{made.text}": the image fits no other platform'
        planning.warn(rules.FROM_PLATFORM_FLAG_CONST_DISALLOWED.warn(message, where, span=f"--platform={written}"))


def base_platform(planning: Planning, state: StageState, *, wanted: Platform, actual: Platform) -> None:
    """The image that was found is for another machine."""
    if (wanted.os, wanted.architecture) != (actual.os, actual.architecture):
        message = f"{state.base_name} is an image for {actual}, but {wanted} is being built"
        planning.warn(rules.INVALID_BASE_IMAGE_PLATFORM.warn(message, state.location, span=state.base_name))


# --- config ---------------------------------------------------------------------------------------------------------


def used_once(planning: Planning, state: StageState, instruction: Cmd | Entrypoint | Healthcheck) -> None:
    """The earlier of two is the one to blame: it has no effect."""
    earlier = state.seen.get(instruction.name)
    if earlier is not None:
        message = f"only the last {instruction.name} of a stage counts, not this one"
        planning.warn(rules.MULTIPLE_INSTRUCTIONS_DISALLOWED.warn(message, earlier))
    state.seen[instruction.name] = instruction.location


def shell_form(planning: Planning, state: StageState, instruction: Cmd | Entrypoint) -> None:
    """A SHELL, be it the base image's, says that its author has thought about the shell."""
    if not state.config.shell:
        message = f"JSON arguments recommended for {instruction.name}: a shell keeps signals from the service"
        line = " ".join(instruction.command.args)
        planning.warn(rules.JSON_ARGS_RECOMMENDED.warn(message, instruction.location, span=line or None))


def working_directory(planning: Planning, state: StageState, instruction: Workdir, path: str) -> None:
    """The first WORKDIR of a stage and its base stages; `path` is expanded."""
    if not state.workdir_set and not path.startswith("/"):
        message = f"the relative path {_quoted(path)} depends on the base image's WORKDIR"
        planning.warn(rules.WORKDIR_RELATIVE_PATH.warn(message, instruction.location, span=instruction.path))


def pairs(planning: Planning, instruction: Env | Label, words: Sequence[KeyValue]) -> None:
    if any(pair.no_delim for pair in words):
        name = instruction.name
        message = f'"{name} key=value" should be used instead of the old "{name} key value"'
        planning.warn(rules.LEGACY_KEY_VALUE_FORMAT.warn(message, instruction.location, span=words[0].key))


def secret(planning: Planning, name: str, key: str, location: Location) -> None:
    """A variable that `name` (ARG or ENV) sets, and that is named like a secret."""
    if _SECRET.search(key) and not _NO_SECRET.search(key):
        message = f"do not use {name} for secrets ({_quoted(key)}): the image keeps it"
        planning.warn(rules.SECRETS_USED_IN_ARG_OR_ENV.warn(message, location, span=key))


def port(planning: Planning, word: str, location: Location) -> None:
    """One word of EXPOSE, expanded."""
    *host, container = word.split(":")
    _, _, protocol = container.partition("/")
    if protocol != protocol.lower():
        message = f"the protocol of '{word}' should be in lower case"
        planning.warn(rules.EXPOSE_PROTO_CASING.warn(message, location, span=word))
    if any(host):
        message = f"EXPOSE of '{word}': only port and protocol count, not what stands before"
        planning.warn(rules.EXPOSE_INVALID_FORMAT.warn(message, location, span=word))


# --- files ------------------------------------------------------------------------------------------------------------


def ignored(planning: Planning, instruction: str, path: str, location: Location) -> None:
    """A path of the build context, cleaned, that COPY or ADD asks for."""
    leaves_out = planning.options.ignored
    if leaves_out is not None and path not in ("", ".") and leaves_out(path):
        message = f'{instruction} of "{path}", which .dockerignore leaves out of the context'
        planning.warn(rules.COPY_IGNORED_FILE.warn(message, location, span=path))


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)
