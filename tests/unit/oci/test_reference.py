import pytest

from firekiln.errors import ReferenceFormatError
from firekiln.oci.reference import Reference, check_digest

DIGEST = "sha256:" + "0123456789abcdef" * 4


@pytest.mark.parametrize(
    ("text", "full"),
    [
        ("debian", "docker.io/library/debian"),
        ("debian:bookworm-slim", "docker.io/library/debian:bookworm-slim"),
        ("a/b", "docker.io/a/b"),
        ("docker.io/debian", "docker.io/library/debian"),
        ("index.docker.io/debian", "docker.io/library/debian"),
        ("index.docker.io/a/b:1", "docker.io/a/b:1"),
        ("localhost/a", "localhost/a"),
        ("localhost:5000/a/b/c:1", "localhost:5000/a/b/c:1"),
        ("ghcr.io/a/b", "ghcr.io/a/b"),
        ("Upper/b", "Upper/b"),
        ("[::1]:5000/a", "[::1]:5000/a"),
        ("foo--bar/b__c/d.e", "docker.io/foo--bar/b__c/d.e"),
        (f"debian@{DIGEST}", f"docker.io/library/debian@{DIGEST}"),
        (f"debian:12@{DIGEST}", f"docker.io/library/debian:12@{DIGEST}"),
        ("a" * 128 + "/x", "docker.io/" + "a" * 128 + "/x"),
    ],
)
def test_parse_completes_a_reference_as_docker_does(text, full):
    assert str(Reference.parse(text)) == full


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "invalid reference format"),
        (":", "invalid reference format"),
        ("a:", "invalid reference format"),
        ("%s", "invalid reference format"),
        ("a//b", "invalid reference format"),
        ("-a", "invalid reference format"),
        ("a-", "invalid reference format"),
        ("a___b", "invalid reference format"),
        ("a..b", "invalid reference format"),
        ("a\n", "invalid reference format"),
        ("a:" + "t" * 129, "invalid reference format"),
        ("a:täg", "invalid reference format"),
        ("a@sha256:beef", "invalid reference format"),
        ("a b", "invalid reference format"),
        ("Debian", "invalid reference format: repository name (library/Debian) must be lowercase"),
        ("a/B:T", "invalid reference format: repository name (a/B) must be lowercase"),
        ("h.io/A", "invalid reference format: repository name (A) must be lowercase"),
        ("DOCKERARCH/ubuntu:", "invalid reference format"),
        ("a/" + "b" * 254, "repository name must not be more than 255 characters"),
        ("a@sha256:" + "A" * 64, "invalid checksum digest format"),
        ("a@sha256:" + "a" * 63, "invalid checksum digest length"),
        ("a@md5:" + "a" * 32, "unsupported digest algorithm"),
        ("ab" * 32, f"invalid repository name ({'ab' * 32}), cannot specify 64-byte hexadecimal strings"),
    ],
)
def test_parse_refuses_what_is_no_reference(text, message):
    with pytest.raises(ReferenceFormatError) as caught:
        Reference.parse(text)
    assert caught.value.message == message


def test_an_upper_case_repository_is_met_with_its_lower_case_form():
    with pytest.raises(ReferenceFormatError) as caught:
        Reference.parse("ghcr.io/Me/App:V1")
    assert caught.value.hint == "did you mean ghcr.io/me/app:V1?"


@pytest.mark.parametrize(
    ("text", "familiar"),
    [
        ("docker.io/library/debian:12", "debian:12"),
        ("docker.io/a/b", "a/b"),
        ("docker.io/library/a/b", "library/a/b"),
        ("ghcr.io/library/b", "ghcr.io/library/b"),
        (f"debian@{DIGEST}", f"debian@{DIGEST}"),
    ],
)
def test_the_familiar_form_leaves_out_what_parse_adds(text, familiar):
    assert Reference.parse(text).familiar == familiar


def test_tagged_adds_latest_only_where_nothing_names_a_version():
    assert str(Reference.parse("a").tagged()) == "docker.io/library/a:latest"
    assert str(Reference.parse("a:1").tagged()) == "docker.io/library/a:1"
    assert str(Reference.parse(f"a@{DIGEST}").tagged()) == f"docker.io/library/a@{DIGEST}"


def test_with_digest_keeps_the_tag_and_refuses_nonsense():
    pinned = Reference.parse("a:1").with_digest(DIGEST)
    assert str(pinned) == f"docker.io/library/a:1@{DIGEST}"
    assert pinned.name == "docker.io/library/a"
    with pytest.raises(ReferenceFormatError, match="invalid checksum digest format"):
        pinned.with_digest("nonsense")
    check_digest("sha512:" + "0" * 128)
