"""What every step finds beside its files, wherever it runs. Pure."""

from __future__ import annotations

from typing import Final

from firekiln.sandbox.step import Step

CA_BUNDLE: Final = "/dev/firekiln/ca.pem"
"""On the step's own tmpfs, so that nothing of it can stay in a layer."""
CA_VARIABLES: Final = (
    "SSL_CERT_FILE",
    "PIP_CERT",
    "REQUESTS_CA_BUNDLE",
    "CURL_CA_BUNDLE",
    "NODE_EXTRA_CA_CERTS",
    "GIT_SSL_CAINFO",
)


def environment(step: Step) -> tuple[str, ...]:
    """The step's variables, and those that say where its certificates are."""
    if step.ca_bundle is None:
        return step.env
    named = {entry.partition("=")[0] for entry in step.env}
    return (*step.env, *(f"{name}={CA_BUNDLE}" for name in CA_VARIABLES if name not in named))


def hosts(step: Step) -> str:
    """The text of /etc/hosts: BuildKit's lines."""
    lines = [f"127.0.0.1\tlocalhost {step.hostname}", "::1\tlocalhost ip6-localhost ip6-loopback"]
    return "\n".join([*lines, *(f"{address}\t{name}" for name, address in step.extra_hosts.items()), ""])
