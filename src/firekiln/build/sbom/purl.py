"""Package URLs (purl-spec): what vulnerability databases know packages by, built by `packageurl-python`.

Qualifiers beyond the specification's are those of BuildKit's scanner: `upstream` is the source package, `distro` the
distribution with its version.
"""

from __future__ import annotations

from packageurl import PackageURL

from firekiln.build.sbom.package import Package, System

_USUAL = {"deb": "debian", "apk": "alpine", "rpm": "redhat", "pypi": None}
"""Namespaces where os-release names no distribution."""


def purl(package: Package, system: System) -> PackageURL:
    """Of one package of that system."""
    if package.kind == "pypi":
        return PackageURL(type="pypi", name=package.name, version=package.version)
    qualifiers = {
        "arch": package.architecture,
        "epoch": package.epoch,
        "upstream": package.source,
        "distro": "-".join(filter(None, (system.identifier, system.version))),
    }
    return PackageURL(
        type=package.kind,
        namespace=system.identifier or _USUAL[package.kind],
        name=package.name,
        version=package.version,
        qualifiers={name: value for name, value in qualifiers.items() if value},
    )
