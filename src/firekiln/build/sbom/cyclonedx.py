"""CycloneDX 1.6 as JSON, by the project's own library, which knows the schema."""

from __future__ import annotations

import uuid
from typing import Final

from cyclonedx.contrib.license.factories import LicenseFactory
from cyclonedx.model import ExternalReference, ExternalReferenceType, Property, XsUri
from cyclonedx.model.bom import Bom, BomMetaData
from cyclonedx.model.component import Component, ComponentType
from cyclonedx.model.contact import OrganizationalEntity
from cyclonedx.model.license import DisjunctiveLicense, License
from cyclonedx.output.json import JsonV1Dot6

from firekiln.build.sbom.document import TOOL, Subject, link, moment
from firekiln.build.sbom.licence import expression
from firekiln.build.sbom.package import Package, System
from firekiln.build.sbom.purl import purl
from firekiln.build.sbom.spdx import document as spdx_document
from firekiln.version import __version__

_PLACE: Final = "firekiln:place"
_UNREAD: Final = "firekiln:unread"


def encoded(subject: Subject) -> bytes:
    """The document, its serial number derived from the one that SPDX's form of it has."""
    inventory = subject.inventory
    image = Component(name=subject.name, type=ComponentType.CONTAINER, bom_ref="image")
    metadata = BomMetaData(
        timestamp=moment(subject),
        component=image,
        properties=[Property(name=_UNREAD, value=line) for line in inventory.unread],
    )
    metadata.tools.components.add(Component(name=TOOL, version=__version__, type=ComponentType.APPLICATION))
    components = [_component(package, inventory.system) for package in inventory.packages]
    if inventory.system.identifier:
        components.append(_distribution(inventory.system))
    serial = uuid.uuid5(uuid.NAMESPACE_URL, str(spdx_document(subject)["documentNamespace"]))
    bom = Bom(serial_number=serial, metadata=metadata, components=components)
    bom.register_dependency(image, components)
    return JsonV1Dot6(bom).output_as_string().encode()


def _component(package: Package, system: System) -> Component:
    url = purl(package, system)
    home = link(package.homepage)
    return Component(
        name=package.name,
        version=package.version,
        type=ComponentType.LIBRARY,
        bom_ref=f"{url.to_string()}&place={package.where}",
        purl=url,
        description=package.summary or None,
        supplier=OrganizationalEntity(name=package.supplier) if package.supplier else None,
        licenses=[_licence(package.licence)] if package.licence else None,
        external_references=[ExternalReference(type=ExternalReferenceType.WEBSITE, url=XsUri(home))] if home else None,
        properties=[Property(name=_PLACE, value=package.where)],
    )


def _distribution(system: System) -> Component:
    return Component(
        name=system.identifier,
        version=system.version or None,
        type=ComponentType.OPERATING_SYSTEM,
        bom_ref="distribution",
        description=system.name or None,
    )


def _licence(text: str) -> License:
    known = expression(text)
    return LicenseFactory().make_from_string(known) if known else DisjunctiveLicense(name=text)
