"""How `run` composes an image's word and the command line's, and what the guest is told."""

import json
from ipaddress import IPv4Address, IPv4Interface

import pytest

from firekiln.errors import MachineError, UsageError
from firekiln.machine.contract import (
    DEFAULT_PATH,
    DOCUMENT_LIMIT,
    Drive,
    Interface,
    MachineDocument,
    Network,
    Overrides,
    Process,
    Rlimit,
    Root,
    SerialPort,
    Vsock,
    signal_number,
)
from firekiln.oci.config import ImageConfig

PATH = f"PATH={DEFAULT_PATH}"


def process(config=None, **overrides):
    return Process.from_image(config or ImageConfig(cmd=("x",)), Overrides(**overrides), hostname="box")


@pytest.mark.parametrize(
    ("entrypoint", "cmd", "overrides", "argv"),
    [
        (None, ("a", "b"), {}, ("a", "b")),
        (("e",), ("a", "b"), {}, ("e", "a", "b")),
        (("e", "f"), None, {}, ("e", "f")),
        (("e",), ("a",), {"args": ("x", "y z")}, ("e", "x", "y z")),
        (None, ("a",), {"args": ("x",)}, ("x",)),
        (("e",), ("a",), {"entrypoint": "/o"}, ("/o",)),  # --entrypoint drops the image's CMD
        (("e",), ("a",), {"entrypoint": "/o", "args": ("x",)}, ("/o", "x")),
        (("e",), ("a",), {"entrypoint": "", "args": ("x",)}, ("x",)),
        ((), ("a",), {}, ("a",)),
        (("e",), (), {}, ("e",)),
        (("e",), ("",), {}, ("e", "")),
    ],
)
def test_argv_is_what_docker_run_would_execute(entrypoint, cmd, overrides, argv):
    assert process(ImageConfig(entrypoint=entrypoint, cmd=cmd), **overrides).argv == argv


@pytest.mark.parametrize(
    ("config", "overrides"),
    [
        (ImageConfig(), {}),
        (ImageConfig(cmd=(), entrypoint=()), {}),
        (ImageConfig(entrypoint=("e",), cmd=("a",)), {"entrypoint": ""}),
    ],
)
def test_an_image_without_command_is_refused(config, overrides):
    with pytest.raises(UsageError, match="no command specified") as caught:
        process(config, **overrides)
    assert caught.value.exit_status == 125


@pytest.mark.parametrize(
    ("image", "given", "env"),
    [
        ((), (), (PATH, "HOSTNAME=box")),
        (("PATH=/bin", "A=1"), (), ("PATH=/bin", "HOSTNAME=box", "A=1")),
        (("A=1", "B=2"), ("B=3", "C=4"), (PATH, "HOSTNAME=box", "B=3", "C=4", "A=1")),
        (("A=1",), ("HOSTNAME=other",), (PATH, "HOSTNAME=other", "A=1")),
        (("A=1", "B=2"), ("A",), (PATH, "HOSTNAME=box", "B=2")),  # -e A where the caller has no A
        (("A=x=y",), ("B=",), (PATH, "HOSTNAME=box", "B=", "A=x=y")),
        ((), ("A=1", "A=2"), (PATH, "HOSTNAME=box", "A=2")),
    ],
)
def test_the_environment_has_dockers_order(image, given, env):
    assert process(ImageConfig(cmd=("x",), env=image), env=given).env == env


def test_user_directory_and_stop_signal_are_the_images_unless_the_command_line_says_otherwise():
    config = ImageConfig(cmd=("x",), user="bob:staff", working_dir="/srv/../app/", stop_signal="SIGQUIT")
    plain = process(config)
    assert (plain.user, plain.cwd, plain.stop_signal) == ("bob:staff", "/app", 3)
    other = process(config, user="", working_dir="//x", stop_signal="RTMIN+3", stop_timeout_ms=1, stdin=True)
    assert (other.user, other.cwd, other.stop_signal, other.stop_timeout_ms, other.stdin) == ("", "/x", 37, 1, True)
    assert (process().user, process().cwd, process().stop_signal) == ("", "/", 15)


def test_a_relative_working_directory_is_refused():
    with pytest.raises(UsageError, match="absolute"):
        process(working_dir="srv")


@pytest.mark.parametrize(
    ("text", "number"),
    [("SIGTERM", 15), ("term", 15), ("9", 9), ("SIGRTMIN", 34), ("SIGRTMIN+3", 37), ("rtmax-1", 63), ("64", 64)],
)
def test_signals_are_read_as_docker_reads_them(text, number):
    assert signal_number(text) == number


@pytest.mark.parametrize("text", ["", "0", "65", "SIGNONE", "RTMIN-1", "RTMIN+31", "99999999999", "-9", "SIG", "٣"])
def test_what_is_no_signal_is_refused(text):
    with pytest.raises(UsageError, match="invalid signal"):
        signal_number(text)


@pytest.mark.parametrize("words", [{"args": ("a\0b",)}, {"env": ("A=\0",)}, {"args": ("x" * (128 << 10),)}])
def test_words_that_no_process_can_be_given_are_refused(words):
    with pytest.raises(UsageError, match="an argument or variable"):
        process(**words)


def document(**fields):
    return MachineDocument(hostname="box", root=Root(layers=(Drive(serial="l0"), Drive(index=1))), **fields)


def test_the_document_says_everything_in_plain_ascii():
    network = Network(
        interfaces=(Interface(address=IPv4Interface("10.0.2.15/24"), gateway=IPv4Address("10.0.2.2")),),
        nameservers=("10.0.2.3",),
        hosts=(("10.0.0.1", "db"),),
    )
    main = process(args=("a b", "é\udcff", "$x\n"))
    data = document(process=main, network=network, channel=Vsock(port=7), time_ns=5).encode()
    assert data.isascii()
    read = json.loads(data)
    assert read["version"] == 1
    assert read["channel"] == {"type": "vsock", "port": 7}
    assert read["root"] == {"layers": [{"serial": "l0"}, {"index": 1}], "scratch": None}
    assert read["process"]["argv"] == ["a b", "é\udcff", "$x\n"]
    assert read["process"]["rlimits"] == [{"name": "nofile", "soft": 1048576, "hard": 1048576}]
    assert read["network"]["interfaces"][0] == {
        "name": "eth0",
        "address": "10.0.2.15",
        "netmask": "255.255.255.0",
        "gateway": "10.0.2.2",
        "mtu": None,
    }
    assert read["network"]["hosts"] == [{"address": "10.0.0.1", "name": "db"}]


def test_the_channel_is_a_named_serial_port_unless_said_otherwise():
    assert document(process=process()).channel == SerialPort(name="firekiln.agent")


def test_unlimited_is_null_in_the_document():
    assert Rlimit(name="core", soft=0, hard=None).to_json() == {"name": "core", "soft": 0, "hard": None}


def test_a_document_that_the_guest_would_not_read_is_refused():
    words = tuple("x" * 100_000 for _ in range(DOCUMENT_LIMIT // 100_000 + 1))
    with pytest.raises(MachineError, match="too long"):
        document(process=process(args=words)).encode()
