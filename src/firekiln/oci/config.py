"""The image config: OCI's (image-spec v1.1, config.md) with Docker's extra keys. Unknown keys survive a round trip.

`ImageConfig` is the inner `config` object (what a container starts with); `Image` is the whole document.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import field, fields
from typing import Any, TypeAlias

from firekiln.oci.platform import Platform
from firekiln.values import dataclass

Json: TypeAlias = bool | int | float | str | list["Json"] | dict[str, "Json"] | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Healthcheck:
    """HEALTHCHECK. `test` is `("NONE",)`, `("CMD", …)` or `("CMD-SHELL", line)`; durations in ns, 0 is unset."""

    test: tuple[str, ...] = ()
    interval: int = 0
    timeout: int = 0
    start_period: int = 0
    start_interval: int = 0
    retries: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageConfig:
    """What the Dockerfile says about running the image.

    None and empty differ for `cmd` and `entrypoint` (`CMD []` unsets an inherited one and is kept as an empty list).
    `extra` holds keys of the JSON that this class does not know.
    """

    user: str = ""
    exposed_ports: tuple[str, ...] = ()
    env: tuple[str, ...] = ()
    entrypoint: tuple[str, ...] | None = None
    cmd: tuple[str, ...] | None = None
    volumes: tuple[str, ...] = ()
    working_dir: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)
    stop_signal: str = ""
    shell: tuple[str, ...] | None = None
    healthcheck: Healthcheck | None = None
    on_build: tuple[str, ...] = ()
    args_escaped: bool = False
    extra: Mapping[str, Json] = field(default_factory=dict)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> ImageConfig:
        known = {key: data[key] for key in _KEYS if key in data}
        return cls(
            user=known.get("User") or "",
            exposed_ports=tuple(sorted(known.get("ExposedPorts") or {})),
            env=tuple(known.get("Env") or ()),
            entrypoint=_words(known.get("Entrypoint")),
            cmd=_words(known.get("Cmd")),
            volumes=tuple(sorted(known.get("Volumes") or {})),
            working_dir=known.get("WorkingDir") or "",
            labels=dict(known.get("Labels") or {}),
            stop_signal=known.get("StopSignal") or "",
            shell=_words(known.get("Shell")),
            healthcheck=_healthcheck(known.get("Healthcheck")),
            on_build=tuple(known.get("OnBuild") or ()),
            args_escaped=bool(known.get("ArgsEscaped")),
            extra={key: value for key, value in data.items() if key not in _KEYS},
        )

    def to_json(self) -> dict[str, Json]:
        """Docker's keys, those that are unset left out."""
        made: dict[str, Json] = {
            "User": self.user,
            "ExposedPorts": {port: {} for port in self.exposed_ports},
            "Env": list(self.env),
            "Entrypoint": None if self.entrypoint is None else list(self.entrypoint),
            "Cmd": None if self.cmd is None else list(self.cmd),
            "Volumes": {path: {} for path in self.volumes},
            "WorkingDir": self.working_dir,
            "Labels": dict(sorted(self.labels.items())),
            "StopSignal": self.stop_signal,
            "Shell": None if self.shell is None else list(self.shell),
            "Healthcheck": None if self.healthcheck is None else _healthcheck_json(self.healthcheck),
            "OnBuild": list(self.on_build),
            "ArgsEscaped": self.args_escaped,
        }
        empty_matters = {"Entrypoint", "Cmd", "Shell", "Healthcheck"}
        kept = {key: value for key, value in made.items() if value or (key in empty_matters and value is not None)}
        return {**kept, **self.extra}


@dataclass(frozen=True, slots=True, kw_only=True)
class History:
    """One line of an image's history. `empty_layer` marks instructions that changed no file."""

    created_by: str
    created: str | None = None
    comment: str = ""
    author: str = ""
    empty_layer: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Image:
    """The whole config document. `diff_ids` are digests of the layers' canonical tars, lowest first."""

    platform: Platform
    config: ImageConfig = field(default_factory=ImageConfig)
    diff_ids: tuple[str, ...] = ()
    history: tuple[History, ...] = ()
    created: str | None = None
    author: str = ""
    extra: Mapping[str, Json] = field(default_factory=dict)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Image:
        return cls(
            platform=Platform.parse(
                "/".join(
                    filter(None, (data.get("os") or "linux", data.get("architecture") or "amd64", data.get("variant")))
                )
            ),
            config=ImageConfig.from_json(data.get("config") or {}),
            diff_ids=tuple((data.get("rootfs") or {}).get("diff_ids") or ()),
            history=tuple(_history(item) for item in data.get("history") or ()),
            created=data.get("created"),
            author=data.get("author") or "",
            extra={key: value for key, value in data.items() if key not in _IMAGE_KEYS},
        )

    def to_json(self) -> dict[str, Json]:
        made: dict[str, Json] = {
            "architecture": self.platform.architecture,
            "os": self.platform.os,
            "variant": self.platform.variant,
            "author": self.author,
            "created": self.created,
            "config": self.config.to_json(),
            "rootfs": {"type": "layers", "diff_ids": list(self.diff_ids)},
            "history": [_history_json(line) for line in self.history],
        }
        return {key: value for key, value in made.items() if value or key in ("config", "rootfs")} | dict(self.extra)

    def encode(self) -> bytes:
        """The document's bytes: sorted keys, no white space, so that the same config has the same digest."""
        return json.dumps(self.to_json(), sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


_KEYS = frozenset(
    "User ExposedPorts Env Entrypoint Cmd Volumes WorkingDir Labels StopSignal Shell Healthcheck OnBuild "
    "ArgsEscaped".split()
)
_IMAGE_KEYS = frozenset("architecture os variant author created config rootfs history".split())
_HEALTH_KEYS = {
    "interval": "Interval",
    "timeout": "Timeout",
    "start_period": "StartPeriod",
    "start_interval": "StartInterval",
    "retries": "Retries",
}


def _words(value: list[str] | None) -> tuple[str, ...] | None:
    return None if value is None else tuple(value)


def _healthcheck(data: Mapping[str, Any] | None) -> Healthcheck | None:
    if data is None:
        return None
    numbers = {name: int(data.get(key) or 0) for name, key in _HEALTH_KEYS.items()}
    return Healthcheck(test=tuple(data.get("Test") or ()), **numbers)


def _healthcheck_json(check: Healthcheck) -> dict[str, Json]:
    made: dict[str, Json] = {"Test": list(check.test)} if check.test else {}
    return made | {key: getattr(check, name) for name, key in _HEALTH_KEYS.items() if getattr(check, name)}


def _history(data: Mapping[str, Any]) -> History:
    names = {item.name for item in fields(History)}
    return History(**{"created_by": "", **{key: value for key, value in data.items() if key in names}})


def _history_json(line: History) -> dict[str, Json]:
    made: dict[str, Json] = {item.name: getattr(line, item.name) for item in fields(line)}
    return {key: value for key, value in made.items() if value}
