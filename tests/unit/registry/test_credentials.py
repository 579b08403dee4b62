import base64
import json
import stat

import pytest

from firekiln.errors import MissingProgramError, RegistryError
from firekiln.oci.credentials import Credential, Credentials, config_path

HELPER = """#!/bin/sh
read -r server || true
case "$1:$server" in
    get:safe.example) echo '{"Username": "<token>", "Secret": "tick"}' ;;
    get:*) echo 'credentials not found in native keychain'; exit 1 ;;
    *) echo "$1 $server" >> "$0.log" ;;
esac
"""


@pytest.fixture
def file(tmp_path):
    return tmp_path / "docker" / "config.json"


@pytest.fixture
def helper(tmp_path, monkeypatch):
    path = tmp_path / "bin" / "docker-credential-test"
    path.parent.mkdir()
    path.write_text(HELPER)
    path.chmod(0o755)
    monkeypatch.setenv("PATH", f"{path.parent}:/usr/bin:/bin")
    return path


def write(file, **data):
    file.parent.mkdir(exist_ok=True)
    file.write_text(json.dumps(data))


def entry(name, password):
    return {"auth": base64.b64encode(f"{name}:{password}".encode()).decode()}


def test_a_login_is_what_docker_writes_and_only_its_owner_reads_it(file):
    Credentials(file).put("docker.io", Credential(username="a", password="b:c"))
    assert json.loads(file.read_text()) == {"auths": {"https://index.docker.io/v1/": entry("a", "b:c")}}
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert Credentials(file).get("docker.io") == Credential(username="a", password="b:c")


def test_what_firekiln_does_not_know_in_the_file_survives(file):
    write(file, psFormat="x", auths={"other.example": entry("o", "p")}, plugins={"a": {"b": "c"}})
    credentials = Credentials(file)
    credentials.put("new.example:5000", Credential(username="n", password="w"))
    assert credentials.erase("new.example:5000")
    assert json.loads(file.read_text()) == {
        "psFormat": "x",
        "auths": {"other.example": entry("o", "p")},
        "plugins": {"a": {"b": "c"}},
    }


def test_a_file_that_is_a_link_stays_one(file, tmp_path):
    write(file)
    real = tmp_path / "dotfiles.json"
    file.rename(real)
    file.symlink_to(real)
    Credentials(file).put("r.example", Credential(username="a", password="b"))
    assert file.is_symlink()
    assert "r.example" in real.read_text()


@pytest.mark.parametrize("key", ["https://r.example/v1/", "r.example", "https://r.example"])
def test_keys_of_old_are_understood(file, key):
    write(file, auths={key: entry("a", "b")})
    assert Credentials(file).get("r.example") == Credential(username="a", password="b")


def test_the_closest_of_podmans_keys_holds(file):
    write(file, auths={"r.example": entry("all", "x"), "r.example/team": entry("team", "x")})
    assert Credentials(file).get("r.example", "team/app").username == "team"
    assert Credentials(file).get("r.example", "other").username == "all"


def test_a_registry_without_credentials_has_none(file):
    assert Credentials(file).get("r.example") is None
    write(file, auths={"r.example": {}})
    assert Credentials(file).get("r.example") is None


def test_a_helper_of_one_registry_goes_before_that_of_all(file, helper):
    write(file, credHelpers={"safe.example": "test"}, auths={"plain.example": entry("a", "b")})
    assert Credentials(file).get("safe.example") == Credential(identity_token="tick")
    assert Credentials(file).get("plain.example").username == "a"


def test_a_store_for_all_gets_logins_and_the_file_does_not(file, helper):
    write(file, credsStore="test")
    credentials = Credentials(file)
    assert credentials.get("unknown.example") is None
    assert credentials.put("safe.example", Credential(username="u", password="p")) == "docker-credential-test"
    assert credentials.erase("safe.example")
    log = helper.with_name("docker-credential-test.log").read_text()
    assert json.loads(log.splitlines()[0].removeprefix("store ")) == {
        "ServerURL": "safe.example",
        "Username": "u",
        "Secret": "p",
    }
    assert log.splitlines()[1] == "erase safe.example"
    assert json.loads(file.read_text()) == {"credsStore": "test"}


def test_a_helper_that_is_not_installed_is_named(file):
    write(file, credsStore="never-heard-of")
    with pytest.raises(MissingProgramError, match="docker-credential-never-heard-of"):
        Credentials(file).get("r.example")


@pytest.mark.parametrize("text", ["{", '{"auths": {"r.example": {"auth": "%%%"}}}'])
def test_a_malformed_file_is_an_error_that_names_it(file, text):
    file.parent.mkdir()
    file.write_text(text)
    with pytest.raises(RegistryError, match=r"config\.json"):
        Credentials(file).get("r.example")


def test_secrets_do_not_show_in_a_credential():
    assert "hush" not in repr(Credential(username="a", password="hush", identity_token="hush"))


def test_the_environment_says_where_the_file_is(tmp_path):
    assert config_path({"REGISTRY_AUTH_FILE": "/a", "DOCKER_CONFIG": "/b"}).as_posix() == "/a"
    assert config_path({"DOCKER_CONFIG": "/b"}).as_posix() == "/b/config.json"
