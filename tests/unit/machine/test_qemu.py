import json
from ipaddress import IPv4Address
from pathlib import Path

import pytest

from firekiln.errors import MachineError
from firekiln.machine.supervision.settings import Settings
from firekiln.machine.vmm.qemu import Memory, kernel_command_line, qemu_argv
from firekiln.machine.vmm.spec import GIB, BlockDevice, DriveLimit, MachineSpec, Nic, PublishedPort
from firekiln.machine.vmm.tsc import host_tsc_khz


def spec(**changes):
    port = PublishedPort(host_ip=IPv4Address("127.0.0.1"), host_port=8080, guest_port=80)
    dns = PublishedPort(host_ip=IPv4Address("0.0.0.0"), host_port=5353, guest_port=53, protocol="udp")
    made = {
        "name": "steady",
        "architecture": "amd64",
        "kernel": Path("/k/vmlinux"),
        "initramfs": Path("/m/initramfs"),
        "drives": (
            BlockDevice(serial="layer0", path=Path("/blobs/with,comma"), readonly=True),
            BlockDevice(serial="scratch", path=Path("/m/scratch"), readonly=False),
        ),
        "nics": (Nic(mac="52:54:00:01:02:03", ports=(port, dns)),),
    }
    return MachineSpec(**{**made, **changes})


def argv(made, accelerator="tcg"):
    fds = [(20 + number,) if nic.tap else (10 + number, 20 + number) for number, nic in enumerate(made.nics)]
    return qemu_argv(made, accelerator=accelerator, tsc_khz=2_600_000, channel_fd=7, nic_fds=fds)


def values(words, option):
    return [words[index + 1] for index, word in enumerate(words) if word == option]


def test_the_machine_is_a_microvm_without_what_a_service_does_not_need():
    words = argv(spec(vcpus=2, memory=GIB))
    assert values(words, "-M") == ["microvm,x-option-roms=off,isa-serial=on,rtc=on"]
    assert values(words, "-accel") == ["tcg"]
    assert values(words, "-smp") == ["2"]
    assert values(words, "-m") == ["1024M"]
    assert {"-nodefaults", "-no-user-config", "-no-reboot"} <= set(words)


def test_a_restored_guest_waits_for_its_devices_and_shares_no_memory():
    shared = Memory(path="/proc/self/fd/9", shared=True)
    saved = Memory(path="/warm/a,b/memory", shared=False)
    first, clone = (
        qemu_argv(
            spec(memory=GIB),
            accelerator="tcg",
            tsc_khz=1,
            channel_fd=7,
            nic_fds=[(10, 20)],
            monitor_fd=8,
            memory=memory,
            restored=not memory.shared,
        )
        for memory in (shared, saved)
    )
    for words in (first, clone):
        assert values(words, "-M") == ["microvm,x-option-roms=off,isa-serial=on,rtc=on,memory-backend=memory"]
        assert values(words, "-mon") == ["chardev=monitor,mode=control"]
        assert "socket,id=monitor,fd=8" in values(words, "-chardev")
    backend = "memory-backend-file,id=memory,size=1073741824,mem-path="
    assert values(first, "-object") == [f"{backend}/proc/self/fd/9,share=on"]
    assert values(clone, "-object") == [f"{backend}/warm/a,,b/memory,share=off"]
    assert (values(first, "-incoming"), values(clone, "-incoming")) == ([], ["defer"])
    devices = ("-device", "-blockdev", "-netdev", "-m", "-cpu")
    assert [values(first, name) for name in devices] == [values(clone, name) for name in devices]


def test_layers_cannot_be_written_and_a_comma_in_a_path_does_no_harm():
    layer, scratch = (json.loads(text) for text in values(argv(spec()), "-blockdev"))
    assert (layer["read-only"], layer["file"]["filename"]) == (True, "/blobs/with,comma")
    assert (scratch["read-only"], scratch["discard"]) == (False, "unmap")
    assert "virtio-blk-device,drive=layer0,serial=layer0,rerror=report,werror=report" in values(argv(spec()), "-device")


def test_all_drives_of_a_machine_share_one_limit():
    words = argv(spec(drive_limit=DriveLimit(read_bps=1 << 20, write_iops=100)))
    (limit,) = (json.loads(text) for text in values(words, "-object"))
    assert limit["qom-type"] == "throttle-group"
    assert limit["limits"] == {"bps-read": 1 << 20, "iops-write": 100}
    for node in map(json.loads, values(words, "-blockdev")):
        assert (node["driver"], node["throttle-group"], node["file"]["driver"]) == ("throttle", limit["id"], "raw")
        assert node["read-only"] is node["file"]["read-only"]


def test_published_ports_are_forwarded_to_the_guests_address():
    network = values(argv(spec()), "-netdev")[0]
    assert "hostfwd=tcp:127.0.0.1:8080-10.0.2.15:80" in network
    assert "hostfwd=udp:0.0.0.0:5353-10.0.2.15:53" in network


def test_between_the_guest_and_the_user_network_there_are_two_sockets_and_no_other_way():
    words = argv(spec())
    assert values(words, "-netdev")[1:] == [
        "hubport,id=inner0,hubid=0,netdev=nat0",
        "socket,id=outside0,fd=20",
        "hubport,id=outer0,hubid=0,netdev=outside0",
        "socket,id=net0,fd=10",
    ]
    assert "virtio-net-device,netdev=net0,mac=52:54:00:01:02:03" in values(words, "-device")


def test_a_tap_is_inherited_and_there_is_no_user_network_beside_it():
    nics = (Nic(mac="52:54:00:01:02:03", tap="fk0n0", bridge="fkb"), Nic(mac="52:54:00:01:02:04", tap="fk0n1"))
    assert values(argv(spec(nics=nics)), "-netdev") == ["tap,id=net0,fd=20", "tap,id=net1,fd=21"]


def test_a_user_network_that_is_internal_lets_nothing_out():
    (network, *_) = values(argv(spec(nics=(Nic(mac="52:54:00:01:02:03", is_internal=True),))), "-netdev")
    assert "restrict=on" in network


def test_a_machine_without_network_has_no_network_device():
    assert values(argv(spec(nics=())), "-netdev") == []


def test_the_agents_channel_is_the_inherited_socket():
    assert values(argv(spec()), "-chardev") == ["socket,id=agent,fd=7"]
    assert "virtserialport,chardev=agent,name=firekiln.agent" in values(argv(spec()), "-device")


@pytest.mark.parametrize(
    ("accelerator", "vcpus", "expected"),
    [
        ("tcg", 1, {"tsc_early_khz=2600000", "tsc=reliable", "no_timer_check", "noreplace-smp"}),
        ("tcg", 2, {"tsc_early_khz=2600000", "tsc=reliable", "no_timer_check", "noreplace-smp"}),
        ("kvm", 1, set()),
    ],
)
def test_only_tcg_is_told_the_frequency_of_its_clock(accelerator, vcpus, expected):
    line = kernel_command_line(spec(vcpus=vcpus), accelerator=accelerator, tsc_khz=2_600_000)
    timing = {word for word in line.split() if word.startswith(("tsc", "no"))}
    assert timing == expected
    assert {"reboot=t", "panic=-1", "net.ifnames=0", "console=ttyS0"} <= set(line.split())


def test_arm64_has_a_machine_of_its_own_and_needs_nothing_of_x86():
    words = argv(spec(architecture="arm64"))
    assert words[0] == "qemu-system-aarch64"
    assert values(words, "-M") == ["virt,gic-version=max,acpi=off"]
    assert values(words, "-cpu") == ["max,pauth=off"]
    assert values(argv(spec(architecture="arm64"), accelerator="kvm"), "-cpu") == ["host"]
    (line,) = values(words, "-append")
    assert {"console=ttyAMA0", "panic=-1", "net.ifnames=0"} <= set(line.split())
    assert not [word for word in line.split() if word.startswith(("tsc", "reboot=", "no_timer"))]


def test_another_architecture_is_refused():
    with pytest.raises(MachineError, match="linux/riscv64 cannot be run"):
        argv(spec(architecture="riscv64"))


def test_settings_survive_being_kept():
    settings = Settings(
        spec=spec(command_line=("a=b",), drive_limit=DriveLimit(read_bps=1, write_iops=2)),
        kernel_digest="sha256:00",
        stop_signal=15,
        stop_timeout=2.5,
        auto_remove=True,
    )
    assert Settings.decode(settings.encode()) == settings
    alone = Settings(spec=spec(nics=()), kernel_digest="", stop_signal=9, stop_timeout=-1)
    assert Settings.decode(alone.encode()) == alone


def test_the_hosts_clock_is_measured_alike_twice():
    first, second = host_tsc_khz(), host_tsc_khz()
    if first is None or second is None:
        pytest.skip("no RDTSC here")
    assert abs(first - second) < first / 1000
