"""Arguments that are there without being given: platforms, the target's name, and those for proxies."""

from __future__ import annotations

from collections.abc import Mapping

from firekiln.oci.platform import Platform

_PROXIES = ("http_proxy", "https_proxy", "ftp_proxy", "no_proxy", "all_proxy")
NO_ENVIRONMENT = frozenset({"BUILDKIT_SBOM_SCAN_CONTEXT", "BUILDKIT_SBOM_SCAN_STAGE"})
"""Arguments that speak to BuildKit itself and never become variables of a step."""

_FRONTEND_ARGS = NO_ENVIRONMENT | frozenset({"SOURCE_DATE_EPOCH"})


def predefined_args(*, build: Platform, target: Platform, stage: str, overrides: Mapping[str, str]) -> dict[str, str]:
    """What `FROM` sees before any ARG, and what `ARG NAME` without a default brings into a stage.

    `stage` is the target stage's name ("default" where it has none); `overrides` are the build arguments.
    """
    values = {
        "BUILDPLATFORM": str(build),
        "BUILDOS": build.os,
        "BUILDOSVERSION": "",
        "BUILDARCH": build.architecture,
        "BUILDVARIANT": build.variant,
        "TARGETPLATFORM": str(target),
        "TARGETOS": target.os,
        "TARGETOSVERSION": "",
        "TARGETARCH": target.architecture,
        "TARGETVARIANT": target.variant,
        "TARGETSTAGE": stage or "default",
    }
    return {name: overrides.get(name, value) for name, value in values.items()}


def proxy_env(build_args: Mapping[str, str]) -> tuple[str, ...]:
    """What RUN gets of proxy arguments, however spelled: each name in both letter cases, empty values left out."""
    values: dict[str, str] = {}
    for name in sorted(build_args):
        if name.lower() in _PROXIES:
            values[name.lower()] = build_args[name]
    return tuple(
        f"{spelling}={values[name]}" for name in _PROXIES if values.get(name) for spelling in (name.upper(), name)
    )


def is_builtin(name: str) -> bool:
    """Whether a build argument means something without an ARG that declares it."""
    return name.lower() in _PROXIES or name in _FRONTEND_ARGS or name.startswith("BUILDKIT_")
