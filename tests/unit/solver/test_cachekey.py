from __future__ import annotations

from dataclasses import replace

import pytest

from firekiln.build import cachekey
from firekiln.build.cachekey import Surroundings
from firekiln.build.graph import (
    BindMount,
    CacheMount,
    Copy,
    ExecOp,
    FileOp,
    InlineFile,
    Mkdir,
    Network,
    Owner,
    SecretMount,
)

RUN = ExecOp(args=("/bin/sh", "-c", "make"), cwd="/", env=("PATH=/bin", "A=1"))
COPY = FileOp(actions=(Copy(source=1, src="/a", dest="/b"),))


def nothing_read(index, part):
    raise AssertionError(f"{part} of input {index} was read")


def key(op, *chains, read=nothing_read, **surroundings):
    return cachekey.vertex_key(op, chains or ("base",), read, Surroundings(**surroundings))


def test_a_key_is_the_same_in_every_process():
    assert key(RUN) == key(replace(RUN))


@pytest.mark.parametrize(
    "other",
    [
        replace(RUN, args=("/bin/sh", "-c", "make all")),
        replace(RUN, env=("PATH=/bin", "A=2")),
        replace(RUN, cwd="/src"),
        replace(RUN, user="bob"),
        replace(RUN, network=Network.NONE),
        replace(RUN, mounts=(CacheMount(target="/c", id="c"),)),
        replace(RUN, mounts=(SecretMount(id="s", target="/s"),)),
        replace(RUN, mounts=(BindMount(target="/p", input=None, files=(InlineFile(name="EOF", data=b"#!x"),)),)),
    ],
)
def test_what_a_step_can_tell_is_in_its_key(other):
    assert key(other) != key(RUN)


def test_proxy_variables_are_not_in_the_key():
    assert key(replace(RUN, proxy_env=("http_proxy=http://proxy",))) == key(RUN)


def test_what_a_step_stands_on_is_in_its_key():
    assert len({key(RUN, "base"), key(RUN, "other"), key(RUN, None)}) == 3


def test_the_builds_network_hosts_and_platform_are_in_the_key_of_a_process():
    keys = {
        key(RUN),
        key(RUN, network="none"),
        key(RUN, extra_hosts={"db": "10.0.0.1"}),
        key(RUN, platform="linux/386"),
    }
    assert len(keys) == 4
    assert key(COPY, "base", "stage") == key(COPY, "base", "stage", network="none")


def test_a_context_is_known_by_what_is_read_of_it():
    seen = []

    def read(index, part):
        seen.append((index, part))
        return "content"

    first = key(COPY, "base", "", read=read)
    assert seen == [(1, COPY.actions[0])]
    assert key(COPY, "base", "", read=lambda *_: "content") == first
    assert key(COPY, "base", "", read=lambda *_: "other") != first
    assert key(COPY, "other", "", read=lambda *_: "content") != first


def test_a_stage_is_known_by_its_chain_without_being_read():
    assert key(COPY, "base", "stage") != key(COPY, "base", "other")


def test_a_linked_copy_does_not_depend_on_its_base():
    linked = replace(COPY, link=True)
    assert key(linked, "base", "stage") == key(linked, "other", "stage")


def test_bytes_of_inline_files_modes_and_owners_are_in_the_key():
    inline = Copy(source=InlineFile(name="f", data=b"1"), src="/f", dest="/f")
    actions = [
        inline,
        replace(inline, source=InlineFile(name="f", data=b"2")),
        replace(inline, mode=0o600),
        replace(inline, mode="u=rw"),
        replace(inline, owner=Owner(user=1)),
        replace(inline, owner=Owner(user="1")),
        Mkdir(path="/f"),
    ]
    assert len({key(FileOp(actions=(action,))) for action in actions}) == len(actions)


def test_only_operations_with_further_inputs_read_content():
    assert cachekey.reads_content(COPY)
    assert cachekey.reads_content(replace(RUN, mounts=(BindMount(target="/m", input=1),)))
    assert not cachekey.reads_content(RUN)
    assert not cachekey.reads_content(FileOp(actions=(Mkdir(path="/w"),)))


def test_a_chain_tells_both_the_step_and_its_outcome():
    assert cachekey.chain_of("key", ["l1"]) != cachekey.chain_of("key", ["l2"])
    assert cachekey.chain_of("key", ["l1"]) != cachekey.chain_of("other", ["l1"])
    assert cachekey.chain_of_image(["l1"]) != cachekey.chain_of_merge(["l1"])
