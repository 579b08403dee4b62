"""How `run` composes an image's word and the command line's, and what the guest is told."""

import json
from ipaddress import IPv4Address, IPv4Interface

import pytest

from firekiln.errors import MachineError, UsageError
from firekiln.machine.guest.channel import SerialPort, Vsock
from firekiln.machine.guest.contract import (
    DOCUMENT_LIMIT,
    Drive,
    DriveMount,
    FileMount,
    HealthCheck,
    Init,
    Interface,
    MachineDocument,
    Network,
    Restart,
    Root,
    SharedMount,
    TmpfsMount,
    WrittenFile,
)
from firekiln.machine.process import DEFAULT_PATH, Overrides, Process, Rlimit, Terminal
from firekiln.machine.signals import signal_number
from firekiln.oci.config import Healthcheck, ImageConfig

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
    assert read["root"] == {"layers": [{"serial": "l0"}, {"index": 1}], "scratch": None, "read_only": False}
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


def test_mounts_say_what_they_are_in_the_documents_words():
    mounts = (
        DriveMount(target="/data", drive=Drive(serial="vol0"), read_only=True, subpath="a/b"),
        TmpfsMount(target="/run", size=4096, mode=0o700, options=("noexec",)),
        SharedMount(target="/src", type="9p", tag="share0"),
        FileMount(target="/etc/motd", data=b"caf\xe9\n", mode=0o600),
    )
    said = [mount.to_json() for mount in mounts]
    assert [item["type"] for item in said] == ["drive", "tmpfs", "9p", "file"]
    assert said[0]["drive"] == {"serial": "vol0"}
    assert said[3]["data"].encode("utf-8", "surrogateescape") == b"caf\xe9\n"
    assert FileMount(target="/x", data=b"\0").to_json()["base64"] == "AA=="


def test_files_may_be_links_and_an_init_says_how_it_is_stopped():
    assert WrittenFile(path="/a", link="../b").to_json() == {"path": "/a", "link": "../b"}
    assert WrittenFile(path="/a", data=b"x", mode=0o755).to_json() == {"path": "/a", "mode": 0o755, "data": "x"}
    assert Init(argv=("/sbin/init",)).to_json() == {"argv": ["/sbin/init"]}
    assert Init(argv=("/sbin/init",), stop_signal=12).to_json()["stop"] == {"signal": 12}
    assert Init(argv=("/sbin/init",), stop_argv=("/sbin/poweroff",)).to_json()["stop"] == {"argv": ["/sbin/poweroff"]}


@pytest.mark.parametrize(
    ("text", "policy", "retries"),
    [("", "no", 0), ("no", "no", 0), ("on-failure:3", "on-failure", 3), ("unless-stopped", "unless-stopped", 0)],
)
def test_a_restart_policy_is_read_as_docker_reads_it(text, policy, retries):
    assert Restart.parse(text) == Restart(policy=policy, retries=retries)


@pytest.mark.parametrize("text", ["sometimes", "always:3", "on-failure:", "on-failure:-1", "on-failure:x"])
def test_another_restart_policy_is_refused(text):
    with pytest.raises(UsageError, match="invalid restart policy"):
        Restart.parse(text)


def test_a_health_check_has_dockers_defaults_and_none_is_none():
    shell = Healthcheck(test=("CMD-SHELL", "true || false"), interval=1_500_000_000, retries=1)
    made = HealthCheck.from_config(shell)
    assert (made.argv, made.interval_ms, made.timeout_ms, made.retries) == (
        ("/bin/sh", "-c", "true || false"),
        1500,
        30_000,
        1,
    )
    assert HealthCheck.from_config(shell, ("/bin/ash", "-ec")).argv == ("/bin/ash", "-ec", "true || false")
    assert HealthCheck.from_config(Healthcheck(test=("CMD", "/check", "a b"))).argv == ("/check", "a b")
    assert HealthCheck.from_config(Healthcheck(test=("NONE",))) is None
    assert HealthCheck.from_config(None) is None
    with pytest.raises(UsageError, match="unknown type"):
        HealthCheck.from_config(Healthcheck(test=("PING",)))


def test_a_terminal_brings_its_variable_and_a_limit_that_is_given_replaces_the_default():
    config = ImageConfig(cmd=("x",), env=("TERM=dumb",))
    assert "TERM=xterm" in process(tty=Terminal()).env
    made = process(config, tty=Terminal(rows=3), rlimits=(Rlimit(name="nofile", soft=1, hard=2),), groups=("audio",))
    assert "TERM=dumb" in made.env
    said = made.to_json()
    assert said["rlimits"] == [{"name": "nofile", "soft": 1, "hard": 2}]
    assert said["tty"] == {"rows": 3, "columns": 0}
    assert said["groups"] == ["audio"]
