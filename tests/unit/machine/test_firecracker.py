"""What Firecracker is told, against its own description of its API."""

import itertools
import time
from dataclasses import replace
from ipaddress import IPv4Address
from pathlib import Path

import pytest

from firecrackers import Api, ApiServer, babble, drip, hang, load_description, refuse
from firekiln.errors import MachineError, UsageError
from firekiln.machine.vmm.firecracker.client import ANSWER_LIMIT, ApiError, connect
from firekiln.machine.vmm.firecracker.configuration import (
    CONTROL_ALT_DELETE,
    START,
    Request,
    configuration,
    kernel_command_line,
    probe,
    requests,
)
from firekiln.machine.vmm.firecracker.devices import Balloon, Devices, RateLimit, Tap, TokenBucket
from firekiln.machine.vmm.firecracker.snapshot import Snapshot, load, save
from firekiln.machine.vmm.firecracker.version import is_safe, parse_version
from firekiln.machine.vmm.spec import GIB, BlockDevice, DriveLimit, MachineSpec, Nic, PublishedPort, SharedFolder

LIMIT = RateLimit(bandwidth=TokenBucket(size=10 << 20, burst=1 << 20), operations=TokenBucket(size=1000, refill_ms=100))
TAP = Tap(name="fk-0123456789ab", mac="52:54:00:01:02:03")
SAVED = Snapshot(state="snapshot/state", memory="snapshot/memory")


def spec(**changes):
    layers = [BlockDevice(serial=f"layer{n}", path=Path(f"/blobs/{n}"), readonly=True) for n in range(8)]
    made = MachineSpec(
        name="steady",
        architecture="amd64",
        kernel=Path("/k/vmlinux"),
        initramfs=Path("/m/initramfs"),
        drives=(*layers, BlockDevice(serial="scratch", path=Path("/m/scratch ☃"), readonly=False)),
    )
    return replace(made, **changes)


@pytest.fixture(scope="module")
def api():
    return Api(load_description())


DEVICES = [
    Devices(tap=tap, balloon=balloon, drive_limit=limit, entropy_limit=limit)
    for tap, balloon, limit in itertools.product(
        (None, TAP, replace(TAP, mtu=1500, receive=LIMIT, send=LIMIT)),
        (None, Balloon(), Balloon(mib=64, deflate_on_oom=False, statistics_interval=1)),
        (None, LIMIT, RateLimit(bandwidth=TokenBucket(size=1))),
    )
]
LIMITED = DriveLimit(read_bps=1 << 20, write_bps=1 << 20, read_iops=50, write_iops=50)
NETWORKED = spec(
    nics=tuple(
        Nic(mac=f"52:54:00:01:02:0{n}", network=f"n{n}", tap=f"fk0123456789n{n}", bridge="fkb") for n in range(2)
    )
)
SPECS = [
    spec(),
    NETWORKED,
    spec(drive_limit=LIMITED),
    spec(drives=()),
    spec(vcpus=32, memory=4 * GIB, architecture="arm64", command_line=("a=b", "c")),
]


@pytest.mark.parametrize("made", SPECS)
@pytest.mark.parametrize("devices", DEVICES)
def test_every_configuration_and_request_is_what_firecrackers_description_allows(api, made, devices):
    document = configuration(made, devices, vsock="vsock")
    assert api.breach(document, {"$ref": "#/definitions/FullVmConfiguration"}) is None
    sent = requests(document)
    assert [api.refusal(request.method, request.path, request.body) for request in sent] == [None] * len(sent)
    interfaces = max(len(made.nics), bool(devices.tap))
    assert len(sent) == 4 + len(made.drives) + interfaces + bool(devices.balloon)


@pytest.mark.parametrize(
    "request_",
    [START, CONTROL_ALT_DELETE, *save(SAVED), load(SAVED), load(SAVED, tap="fk-1", vsock="vsock", resume=False)],
)
def test_starting_snapshots_and_their_loading_are_what_the_description_allows(api, request_):
    assert api.refusal(request_.method, request_.path, request_.body) is None


def test_the_trial_of_kvm_is_what_the_description_allows(api):
    document = probe(Path("/k/vmlinux"))
    assert api.breach(document, {"$ref": "#/definitions/FullVmConfiguration"}) is None
    assert "initrd_path" not in document["boot-source"]


def test_the_description_refuses_what_is_wrong(api):
    body = configuration(spec(), Devices(), vsock="vsock")["drives"][0]
    assert "unknown field" in api.refusal("PUT", "/drives/drive0", {**body, "serial": "layer0"})
    assert "missing field" in api.refusal("PUT", "/drives/drive0", {"drive_id": "drive0"})
    assert "no boolean" in api.refusal("PUT", "/drives/drive0", {**body, "is_read_only": 1})
    assert "none of" in api.refusal("PUT", "/drives/drive0", {**body, "cache_type": "None"})
    assert "out of range" in api.refusal("PUT", "/machine-config", {"vcpu_count": 33, "mem_size_mib": 1})
    assert "differs" in api.refusal("PUT", "/drives/drive1", body)
    assert "Invalid request" in api.refusal("DELETE", "/drives/drive0", None)


def test_layers_are_read_only_and_a_guests_sync_reaches_the_disk():
    drives = configuration(spec(), Devices(), vsock="vsock")["drives"]
    assert [drive["path_on_host"] for drive in drives] == [*(f"/blobs/{n}" for n in range(8)), "/m/scratch ☃"]
    assert [drive["is_read_only"] for drive in drives] == [True] * 8 + [False]
    assert [drive["cache_type"] for drive in drives] == ["Unsafe"] * 8 + ["Writeback"]
    assert not any(drive["is_root_device"] for drive in drives)


def test_the_kernels_words_end_the_vmm_and_hide_no_device():
    words = kernel_command_line(spec(command_line=("x=y",))).split()
    assert {"reboot=k", "panic=-1", "console=ttyS0", "i8042.noaux", "x=y"} <= set(words)
    assert not {"nomodule", "nomodules", "pci=off", "acpi=off"} & set(words)
    assert not [word for word in kernel_command_line(spec(architecture="arm64")).split() if "i8042" in word]


def test_each_network_of_the_kernels_is_an_interface_in_its_place():
    made = configuration(NETWORKED, Devices(), vsock="v")["network-interfaces"]
    assert [(item["iface_id"], item["host_dev_name"], item["guest_mac"]) for item in made] == [
        ("eth0", "fk0123456789n0", "52:54:00:01:02:00"),
        ("eth1", "fk0123456789n1", "52:54:00:01:02:01"),
    ]
    limited = configuration(NETWORKED, Devices(tap=TAP), vsock="v")["network-interfaces"]
    assert [item["host_dev_name"] for item in limited] == [TAP.name, "fk0123456789n1"]


def test_firecracker_refuses_what_it_has_no_device_for():
    port = PublishedPort(host_ip=IPv4Address("127.0.0.1"), host_port=8080, guest_port=80)
    networked = spec(nics=(Nic(mac="52:54:00:01:02:03", ports=(port,)),))
    with pytest.raises(UsageError, match="no user network"):
        configuration(networked, Devices(), vsock="v")
    assert configuration(networked, Devices(tap=TAP), vsock="v")["network-interfaces"][0]["iface_id"] == "eth0"
    sharing = spec(shares=(SharedFolder(tag="t", path=Path("/src"), readonly=True),))
    with pytest.raises(UsageError, match="shares no folders of the host: /src"):
        configuration(sharing, Devices(), vsock="v")
    with pytest.raises(UsageError, match="reads and writes together"):
        configuration(spec(drive_limit=DriveLimit(read_bps=1)), Devices(), vsock="v")
    with pytest.raises(UsageError, match="33 processors"):
        configuration(spec(vcpus=33), Devices(), vsock="v")
    for name in ("", "sixteen-letters-", "a/b", "a b", ".."):
        with pytest.raises(UsageError, match="not a name"):
            Tap(name=name, mac="")


@pytest.mark.parametrize(
    ("text", "version", "safe"),
    [
        ("Firecracker v1.14.4\n\nSupported snapshot data format versions: 8.0.0\n", (1, 14, 4), True),
        ("Firecracker v1.14.3", (1, 14, 3), False),
        ("Firecracker v1.15.0", (1, 15, 0), False),
        ("Jailer v1.15.1", (1, 15, 1), True),
        ("Firecracker v1.17.0-dev", (1, 17, 0), True),
        ("Firecracker v0.25.2", (0, 25, 2), False),
        ("QEMU emulator version 7.2.0", None, None),
        ("", None, None),
    ],
)
def test_versions_with_known_holes_are_told_apart(text, version, safe):
    assert parse_version(text) == version
    if version is not None:
        assert is_safe(version) is safe


# --- the client ----------------------------------------------------------------------------------------------------


@pytest.fixture
def serve(api, tmp_path):
    servers = []

    def start(**faults):
        server = ApiServer(
            api, tmp_path / "api.sock", {key.replace("_", " ", 1): value for key, value in faults.items()}
        )
        servers.append(server.__enter__())
        return server

    yield start
    for server in servers:
        server.__exit__()


def test_a_machine_is_configured_and_started_over_one_connection(serve, tmp_path):
    server = serve()
    wanted = [*requests(configuration(spec(), DEVICES[-1], vsock="vsock")), START]
    with connect(tmp_path, "api.sock") as client:
        assert [client.send(request) for request in wanted] == [None] * len(wanted)
        info = client.send(Request(method="GET", path="/"))
    assert info["state"] == "Not started"
    assert server.requests[:-1] == [(request.method, request.path, request.body) for request in wanted]


def test_a_refusal_says_which_request_and_why_and_the_connection_goes_on(serve, tmp_path):
    serve(**{"PUT_/vsock": refuse(400, "Cannot create backend:\x1b[31m Address in use")})
    with connect(tmp_path, "api.sock") as client:
        with pytest.raises(ApiError, match=r"refused PUT /vsock \(400\): Cannot create backend: .*in use") as caught:
            client.send(Request(method="PUT", path="/vsock", body={"guest_cid": 3, "uds_path": "v"}))
        assert caught.value.status == 400
        assert caught.value.exit_status == 125
        assert "\x1b" not in str(caught.value)
        with pytest.raises(ApiError, match="unknown field `nonsense`"):
            client.send(Request(method="PUT", path="/entropy", body={"nonsense": 1}))
        assert client.send(Request(method="PUT", path="/entropy", body={})) is None


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        (hang, r"did not answer PUT /actions within 0\.2 s"),
        (drip, r"did not answer PUT /actions within 0\.2 s"),
        (babble(b""), "broke off at PUT /actions"),
        (babble(b"SSH-2.0-OpenSSH_9\r\n"), "broke off at PUT /actions"),
        (babble(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{"), "broke off at PUT /actions: .* cut short"),
        (babble(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{]"), "is no JSON"),
        (babble(b"HTTP/1.1 200 OK\r\n\r\n" + b"[" * (ANSWER_LIMIT + 9)), "too long"),
        (babble(b"HTTP/1.1 200 OK\r\n\r\n" + b"[" * 100_000), "is no JSON"),
        (babble(b"HTTP/1.1 500 Oops\r\n\r\n<html>\x07"), r"refused PUT /actions \(500\): <html>"),
        (babble(b"HTTP/1.1 200 OK\r\n" + b"a: b\r\n" * 200 + b"\r\n"), "broke off at PUT /actions"),
    ],
)
def test_an_answer_that_is_none_becomes_one_clear_line(serve, tmp_path, fault, message):
    serve(**{"PUT_/actions": fault})
    start = time.monotonic()
    with connect(tmp_path, "api.sock", timeout=0.2) as client, pytest.raises(MachineError, match=message) as caught:
        client.send(START)
    assert time.monotonic() - start < 2
    assert "\n" not in str(caught.value)


def test_nobody_listening_is_an_error_after_the_timeout_or_at_the_process_end(tmp_path):
    with pytest.raises(MachineError, match=r"did not come up within 0\.05 s"):
        connect(tmp_path, "api.sock", timeout=0.05)
    with pytest.raises(MachineError, match="ended before its API answered"):
        connect(tmp_path, "api.sock", timeout=5, is_alive=lambda: False)
    with pytest.raises(MachineError, match="did not come up"):
        connect(tmp_path / "absent", "api.sock", timeout=0.01)


def test_the_socket_may_lie_in_a_folder_of_any_depth(api, tmp_path, monkeypatch):
    deep = tmp_path / ("d" * 120) / ("e" * 120)
    deep.mkdir(parents=True)
    monkeypatch.chdir(deep)  # as Firecracker itself is started
    with ApiServer(api, "api.sock"), connect(deep, "api.sock") as client:
        assert client.send(Request(method="GET", path="/version")) == {"firecracker_version": "text"}
