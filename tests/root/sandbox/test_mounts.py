"""RUN --mount in all its kinds."""

from __future__ import annotations

import os
import socket

import pytest

from firekiln.errors import SandboxError
from firekiln.rootfs.tree import Whiteout
from firekiln.sandbox.step import FileMount, FolderMount, LayersMount, ScratchMount, SocketMount, TreeMount
from trees import file, folder, link

pytestmark = pytest.mark.root


def test_layers_are_mounted_merged_and_read_only(run, layer):
    low = layer(folder({b"a": file(b"1"), b"gone": file()}))
    high = layer(folder({b"b": file(b"2"), b"gone": Whiteout()}))
    result = run("ls /m; touch /m/x", mounts=(LayersMount(target="/m", layers=(low, high)),))
    assert result.out.split() == ["a", "b"]
    assert "Read-only file system" in result.err
    assert result.changed == {}


def test_a_single_layer_s_whiteouts_do_not_show(run, layer):
    only = layer(folder({b"a": file(b"1"), b"gone": Whiteout()}))
    assert run("ls /m", mounts=(LayersMount(target="/m", layers=(only,)),)).out == "a\n"


def test_writes_to_a_writable_mount_of_layers_are_thrown_away(run, layer):
    shared = layer(folder({b"a": file(b"1")}, mode=0o750))
    mounts = (LayersMount(target="/m", layers=(shared,), readonly=False), LayersMount(target="/n", layers=(shared,)))
    result = run("echo new >/m/x; rm /m/a; ls /m /n; stat -c %a /m", mounts=mounts)
    assert result.out == "/m:\nx\n\n/n:\na\n750\n"
    assert result.changed == {}


def test_a_part_of_layers_can_be_mounted_a_file_too(run, layer):
    parts = layer(folder({b"d": folder({b"f": file(b"deep")}), b"l": link(b"/d/../../d/f")}))
    mounts = (
        LayersMount(target="/m", layers=(parts,), source="/d"),
        LayersMount(target="/file", layers=(parts,), source="l"),
    )
    result = run("cat /m/f /file", mounts=mounts)
    assert result.out == "deepdeep"
    assert result.changed == {}


def test_a_missing_source_is_named(run, layer):
    with pytest.raises(SandboxError, match='"/nope": not found'):
        run("true", mounts=(LayersMount(target="/m", layers=(layer(folder()),), source="/nope"),))


def test_a_tree_is_mounted_with_its_metadata(run):
    one = file(b"x", mode=0o640, uid=7, gid=8, mtime_ns=5 * 10**9)
    tree = folder({b"a": one, b"hard": one, b"l": link(b"a"), b"d": folder({b"e": file(b"deep")}, mode=0o700)})
    line = "stat -c '%a %u %g %Y %h' /t/a; readlink /t/l; stat -c %a /t/d; cat /t/d/e; touch /t/x"
    result = run(line, mounts=(TreeMount(target="/t", tree=tree),))
    assert result.out.splitlines() == ["640 7 8 5 2", "a", "700", "deep"]
    assert "Read-only" in result.err


def test_a_script_of_a_heredoc_is_reached_under_dev_pipes(run):
    script = folder({b"EOF": file(b"#!/bin/sh\necho $0\n", mode=0o755)})
    result = run(args=["/dev/pipes/EOF"], mounts=(TreeMount(target="/dev/pipes/", tree=script),))
    assert result.out == "/dev/pipes/EOF\n"


def test_a_folder_keeps_what_a_step_writes(run, tmp_path):
    cache = tmp_path / "cache"
    cache.mkdir()
    mounts = (FolderMount(target="/c", folder=cache),)
    assert run("echo 1 >/c/x; mkdir /c/d", mounts=mounts).changed == {}
    assert (cache / "x").read_text() == "1\n"
    assert run("cat /c/x; touch /c/y", mounts=(FolderMount(target="/c", folder=cache, readonly=True),)).out == "1\n"
    assert not (cache / "y").exists()


def test_a_folder_that_is_not_there_is_an_error(run, tmp_path):
    with pytest.raises(SandboxError, match="cannot prepare a mount"):
        run("true", mounts=(FolderMount(target="/c", folder=tmp_path / "no"),))


def test_a_scratch_mount_has_its_size(run):
    result = run("grep ' /tt ' /proc/mounts; echo x >/tt/f", mounts=(ScratchMount(target="/tt", size=1 << 20),))
    assert "size=1024k" in result.out
    assert result.status == 0
    assert result.changed == {}


def test_a_secret_is_a_file_of_its_own_and_leaves_nothing(run):
    secret = FileMount(target="/run/secrets/a", data=b"s3cr3t\n", mode=0o400, uid=7, gid=8)
    result = run("cat /run/secrets/a; stat -c '%a %u %g' /run/secrets/a; echo x >/run/secrets/a", mounts=(secret,))
    assert result.out == "s3cr3t\n400 7 8\n"
    assert "Read-only" in result.err
    assert result.changed == {}


def test_a_mount_below_another_comes_after_it(run):
    inner = FileMount(target="/m/in/f", data=b"inner")
    outer = ScratchMount(target="/m")
    assert run("cat /m/in/f", mounts=(inner, outer)).out == "inner"


def test_an_agent_s_socket_is_forwarded_with_owner_and_mode(run, tmp_path):
    path = tmp_path / "agent"
    with socket.socket(socket.AF_UNIX) as agent:
        agent.bind(str(path))
        agent.listen()
        mount = SocketMount(target="/run/agent", socket=path, uid=7, gid=8)
        result = run("stat -c '%a %u %g %F' /run/agent", mounts=(mount,), user="bob")
        assert result.out == "600 7 8 socket\n"
        assert result.changed == {}
        assert path.stat().st_uid == os.geteuid()


def test_an_agent_s_socket_that_nobody_serves_is_an_error(run, tmp_path):
    with pytest.raises(SandboxError, match="cannot prepare a mount"):
        run("true", mounts=(SocketMount(target="/run/agent", socket=tmp_path / "none"),))
