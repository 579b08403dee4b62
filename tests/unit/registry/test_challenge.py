import pytest

from firekiln.oci.registry.challenge import parse


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        ('Basic realm="a b"', [("basic", {"realm": "a b"})]),
        (
            'Bearer realm="https://a/t",service="s",scope="repository:x:pull,push"',
            [("bearer", {"realm": "https://a/t", "service": "s", "scope": "repository:x:pull,push"})],
        ),
        ('bearer Realm=x , SERVICE="a\\"b"', [("bearer", {"realm": "x", "service": 'a"b'})]),
        ('Negotiate, Basic realm="r", Bearer realm="t"', [("basic", {"realm": "r"}), ("bearer", {"realm": "t"})]),
        ("Digest nonce=1", []),
        ("", []),
        ('=,,"', []),
    ],
)
def test_challenges_are_read_as_written(header, expected):
    assert [(item.scheme, dict(item.parameters)) for item in parse(header)] == expected
