"""`login`, `push`, `pull` as a user types them, against Debian's own registry with TLS and passwords."""

import json
import os
import subprocess

import pytest

from firekiln.store import Store
from machines import argv, put_image
from registries import PASSWORD, USER, docker_registry
from trees import file, folder


@pytest.fixture(scope="module")
def secured(tmp_path_factory):
    with docker_registry(tmp_path_factory.mktemp("registry"), tls=True, auth=True) as registry:
        yield registry


@pytest.fixture
def user(tmp_path, secured):
    """Runs the command as a user who trusts the registry's authority; `home` holds what it writes."""
    home = tmp_path / "home"
    (home / "firekiln").mkdir(parents=True)
    (home / "firekiln" / "config.toml").write_text(f'[registry."{secured.host}"]\nca = "{secured.ca}"\n')

    def run(store, *args, stdin=""):
        environment = {**os.environ, "XDG_CONFIG_HOME": str(home), "DOCKER_CONFIG": str(home)}
        return subprocess.run(
            argv(store, *args), input=stdin, capture_output=True, text=True, env=environment, timeout=60, check=False
        )

    run.config = home / "config.json"
    return run


def login(user, store, secured, password=PASSWORD):
    return user(store, "login", "-u", USER, "--password-stdin", secured.host, stdin=password + "\n")


def test_an_image_goes_to_another_store_by_a_registry(user, secured, tmp_path):
    name = f"{secured.host}/kiln/hello:1"
    with Store.open(tmp_path / "here") as here, Store.open(tmp_path / "there") as there:
        image = put_image(here, name, folder({b"a": file(b"1")}), entrypoint=("/a",))
        refused = user(here, "push", name)
        assert refused.returncode == 1
        assert "access denied" in refused.stderr
        assert f"firekiln login {secured.host}" in refused.stderr
        assert login(user, here, secured).stdout.startswith("Login Succeeded")
        pushed = user(here, "push", name)
        assert pushed.returncode == 0, pushed.stderr
        digest = pushed.stdout.split()[2]
        assert pushed.stdout.startswith("1: digest: sha256:")
        pulled = user(there, "pull", name)
        assert pulled.returncode == 0, pulled.stderr
        assert pulled.stdout.splitlines() == [
            f"Digest: {digest}",
            f"Status: Downloaded newer image for {name}",
            name,
        ]
        assert "Image is up to date" in user(there, "pull", name).stdout
        assert user(there, "pull", "-q", f"{secured.host}/kiln/hello@{digest}").stdout == (
            f"{secured.host}/kiln/hello@{digest}\n"
        )
        assert there.images.get(name).digest == image.digest
        (inspected,) = json.loads(user(there, "inspect", name).stdout)
        assert f"{secured.host}/kiln/hello@{digest}" in inspected["RepoDigests"]


def test_a_wrong_password_is_not_kept(user, secured, tmp_path):
    with Store.open(tmp_path / "store") as store:
        assert login(user, store, secured, "wrong").returncode == 1
        assert not user.config.exists()
        assert login(user, store, secured).returncode == 0
        assert secured.host in json.loads(user.config.read_text())["auths"]
        assert "Removing login" in user(store, "logout", secured.host).stdout
        assert "Not logged in" in user(store, "logout", f"https://{secured.host}/v2/").stdout
        assert json.loads(user.config.read_text())["auths"] == {}


def test_a_login_needs_a_terminal_or_a_password(user, tmp_path):
    with Store.open(tmp_path / "store") as store:
        done = user(store, "login", "-u", "x", "registry.example")
        assert done.returncode == 125
        assert "non TTY device" in done.stderr
        assert "--username" in user(store, "login", "--password-stdin", "registry.example", stdin="x").stderr


@pytest.mark.parametrize("name", ["kiln/absent:1", "kiln/absent"])
def test_what_is_not_there_is_said_in_a_line(user, secured, tmp_path, name):
    with Store.open(tmp_path / "store") as store:
        login(user, store, secured)
        done = user(store, "pull", f"{secured.host}/{name}")
        assert done.returncode == 1
        assert "manifest unknown" in done.stderr
        assert "Traceback" not in done.stderr


def test_from_takes_an_image_of_a_registry_unless_it_may_not(user, secured, tmp_path):
    name = f"{secured.host}/kiln/base:1"
    with Store.open(tmp_path / "here") as here, Store.open(tmp_path / "there") as there:
        put_image(here, name, folder({b"a": file(b"1")}), labels={"from": "base"})
        login(user, here, secured)
        assert user(here, "push", name).returncode == 0
        refused = user(there, "build", "--pull=never", "-q", "-f", "-", str(tmp_path / "home"), stdin=f"FROM {name}\n")
        assert refused.returncode == 1
        built = user(
            there, "build", "--pull", "-q", "-f", "-", str(tmp_path / "home"), stdin=f"FROM {name}\nLABEL x=y\n"
        )
        assert built.returncode == 0, built.stderr
        image = there.images.get(built.stdout.strip())
        assert image.image.config.labels == {"from": "base", "x": "y"}
