"""Documents on what is installed, held to SPDX's and CycloneDX's own libraries."""

from __future__ import annotations

import json

import pytest
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
from spdx_tools.spdx.parser.jsonlikedict.json_like_dict_parser import JsonLikeDictParser
from spdx_tools.spdx.validation.document_validator import validate_full_spdx_document

from firekiln.build.sbom import Inventory, Package, System
from firekiln.build.sbom.document import Subject, encoded
from firekiln.build.sbom.licence import expression

PACKAGES = (
    Package(
        kind="apk", name="musl", version="1.2.5-r0", where="/a", licence="MIT", homepage="https://musl.example.org/"
    ),
    Package(kind="apk", name="weird", version="1", where="/a", licence="custom (see file)", homepage="no address"),
    Package(
        kind="deb",
        name="libstdc++6",
        version="1:12.2.0-14+deb12u1",
        where="/s",
        architecture="amd64",
        source="gcc-12",
        supplier="Some (and others) Body <body@example.org>",
        homepage="http://example.org/#part",
        summary='ünïcode \\ " summary',
    ),
    Package(kind="pypi", name="demo", version="1.0", where="/x/demo.dist-info/METADATA", licence="apache-2.0 or mit"),
    Package(kind="pypi", name="demo", version="1.0", where="/y/demo.dist-info/METADATA"),
    Package(kind="rpm", name="x" * 500, version="~^", where="/r", licence="LicenseRef-own AND MIT", epoch="0"),
)
SYSTEM = System(identifier="debian", version="12", name="Debian GNU/Linux 12")


def subject(packages=PACKAGES, *, created="2026-11-24T01:02:03.456Z", unread=("/r: not read",)) -> Subject:
    inventory = Inventory(system=SYSTEM, packages=packages, unread=unread)
    return Subject(name="registry.example:5000/team/web:1", created=created, inventory=inventory)


@pytest.mark.parametrize("packages", [PACKAGES, ()], ids=["some", "none"])
def test_spdx_s_own_library_finds_nothing_wrong(packages):
    document = json.loads(encoded(subject(packages), "spdx-json"))
    parsed = JsonLikeDictParser().parse(document)
    assert validate_full_spdx_document(parsed) == []
    assert len(parsed.packages) == len(packages) + 1


@pytest.mark.parametrize("packages", [PACKAGES, ()], ids=["some", "none"])
def test_cyclonedx_s_schema_is_kept(packages):
    data = encoded(subject(packages), "cyclonedx-json")
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(data.decode()) is None
    assert len(json.loads(data)["components"]) == len(packages) + 1


def test_licences_that_spdx_does_not_list_are_told_in_words():
    musl, weird, _, demo, *_, own = json.loads(encoded(subject(), "spdx-json"))["packages"][1:]
    assert musl["licenseDeclared"] == "MIT"
    assert (weird["licenseDeclared"], weird["licenseComments"]) == ("NOASSERTION", "declared as: custom (see file)")
    assert demo["licenseDeclared"] == "Apache-2.0 OR MIT"
    assert own["licenseDeclared"] == "NOASSERTION"


def test_what_is_no_address_of_the_web_is_no_homepage():
    packages = json.loads(encoded(subject(), "spdx-json"))["packages"][1:]
    assert [package.get("homepage") for package in packages] == ["https://musl.example.org/", *[None] * 5]


def test_what_was_not_read_stands_in_both_documents():
    assert json.loads(encoded(subject(), "spdx-json"))["comment"] == "/r: not read"
    properties = json.loads(encoded(subject(), "cyclonedx-json"))["metadata"]["properties"]
    assert properties == [{"name": "firekiln:unread", "value": "/r: not read"}]


@pytest.mark.parametrize(("form", "own"), [("spdx-json", "documentNamespace"), ("cyclonedx-json", "serialNumber")])
def test_the_same_image_gives_the_same_bytes_and_another_one_another_identity(form, own):
    first, again, other = (encoded(subject(packages), form) for packages in (PACKAGES, PACKAGES, PACKAGES[1:]))
    assert first == again
    assert json.loads(first)[own] != json.loads(other)[own]


@pytest.mark.parametrize(
    ("created", "shown"),
    [
        ("2026-11-24T01:02:03.456Z", "2026-11-24T01:02:03Z"),
        ("2026-11-24T01:02:03+01:00", "2026-11-24T00:02:03Z"),
        ("", "1970-01-01T00:00:00Z"),
        ("yesterday", "1970-01-01T00:00:00Z"),
        ("0001-01-01T00:00:00+14:00", "1970-01-01T00:00:00Z"),
    ],
)
def test_the_time_is_the_image_s(created, shown):
    document = json.loads(encoded(subject(created=created), "spdx-json"))
    assert document["creationInfo"]["created"] == shown


@pytest.mark.parametrize(
    "text",
    [
        "",
        "(" * 500,
        "(" * 5000,
        "MIT AND",
        "GPLv2+",
        "LicenseRef-x",
        "MIT OR LicenseRef-x",
        "MIT )",
        "( MIT ) / ( OR",
        "WITH",
        "MIT WITH MIT",
        "\0",
        "é",
    ],
)
def test_no_text_but_an_expression_of_spdx_s_is_one(text):
    assert expression(text) == ""
