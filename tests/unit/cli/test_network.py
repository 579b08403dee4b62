"""`network`: what is printed, and what is refused."""

import json

import pytest
from click.testing import CliRunner

from firekiln.cli.command import cli
from firekiln.errors import ConflictError, FirekilnError, UsageError
from firekiln.machine.network.networks import NetworkNotFoundError, Networks


@pytest.fixture
def network(tmp_path):
    """The command line's `network`: a function that returns what it prints."""

    def run(*words):
        result = CliRunner().invoke(cli, ["--root", str(tmp_path), "network", *words], standalone_mode=False)
        if isinstance(result.exception, FirekilnError):
            raise result.exception
        assert result.exception is None, result.output
        return result.stdout

    return run


def test_a_network_is_made_listed_inspected_and_removed(network):
    made = network("create", "--subnet", "10.5.0.0/24", "--label", "a=b", "-o", "carrier=user", "front").strip()
    assert network("ls", "-q", "--no-trunc", "-f", "name=front").split() == [made]
    lines = network("ls").splitlines()
    assert lines[0].split() == ["NETWORK", "ID", "NAME", "DRIVER", "SCOPE"]
    assert [line.split()[1] for line in lines[1:]] == ["bridge", "front"]
    (shown,) = json.loads(network("inspect", "front"))
    assert shown["IPAM"]["Config"] == [{"Subnet": "10.5.0.0/24", "Gateway": "10.5.0.1"}]
    assert (shown["Labels"], shown["Internal"], shown["Containers"]) == ({"a": "b"}, False, {})
    assert shown["Options"] == {"carrier": "user"}
    assert network("inspect", "-f", "{{.Driver}}", made[:12]).strip() == "bridge"
    assert network("rm", "front").strip() == "front"
    with pytest.raises(NetworkNotFoundError, match="network front not found"):
        network("inspect", "front")
    assert network("rm", "-f", "front") == ""


@pytest.mark.parametrize(
    ("filter_", "names"),
    [
        ("type=custom", ["back", "front"]),
        ("type=builtin", ["bridge"]),
        ("label=a", ["front"]),
        ("label=a=c", []),
        ("label!=a", ["back", "bridge"]),
        ("dangling=true", ["back", "front"]),
        ("driver=overlay", []),
        ("scope=local", ["back", "bridge", "front"]),
    ],
)
def test_networks_are_filtered(network, filter_, names):
    network("create", "--label", "a=b", "front")
    network("create", "back")
    assert network("ls", "-f", filter_, "--format", "{{.Name}}").split() == names


def test_networks_that_no_machine_has_are_pruned(network, tmp_path):
    for name in ("front", "back", "kept"):
        network("create", "-o", "carrier=user", name)
    networks = Networks(tmp_path)
    networks.join(networks.get("kept"), "a" * 64, names=("web",))
    assert network("prune", "-f").split("\n") == ["Deleted Networks:", "back", "front", ""]
    assert network("prune", "-f") == ""
    with pytest.raises(ConflictError, match="has active endpoints"):
        network("rm", "kept")


@pytest.mark.parametrize(
    ("words", "error"),
    [
        (["create", "-d", "overlay", "front"], "could not find plugin overlay"),
        (["create", "--ipv6", "front"], "IPv4 only"),
        (["create", "-o", "carrier=pigeon", "front"], "not known"),
        (["create", "-o", "color=red", "front"], "not known"),
        (["ls", "-f", "color=red"], "invalid filter"),
        (["connect", "front", "web"], "network connect: a machine's network interfaces are its hardware"),
        (["disconnect", "front", "web"], "network disconnect: a machine's"),
    ],
)
def test_what_networks_are_not_is_said(network, words, error):
    with pytest.raises(UsageError, match=error):
        network(*words)
