"""The planner's small parsers: paths, owners, modes, ports, signals, remote sources, predefined arguments."""

import re

import pytest

from firekiln.build.graph import Owner
from firekiln.build.plan import metadata, paths, platformargs, remotes
from firekiln.build.plan.owners import parse_mode, parse_owner
from firekiln.build.plan.ports import parse_ports
from firekiln.build.plan.signals import check_signal
from firekiln.oci.platform import Platform


@pytest.mark.parametrize(
    ("path", "working_dir", "dest"),
    [
        ("/a/b", "/w", "/a/b"),
        ("/a//b/../c/", "/w", "/a/c/"),
        ("a", "/w", "/w/a"),
        ("a/", "/w", "/w/a/"),
        (".", "/w", "/w/"),
        ("", "/w", "/w/"),
        ("./", "/", "/"),
        ("..", "/w/x", "/w"),
        ("../../../..", "/w", "/"),
        ("/o/.", "/", "/o/."),
        ("//o", "/", "/o"),
    ],
)
def test_a_destination_keeps_its_trailing_slash_and_nothing_else(path, working_dir, dest):
    assert paths.destination(path, working_dir) == dest


def test_workdir_joins_relative_paths_and_leaves_absolute_ones_as_spelled():
    assert paths.working_directory("/a", "b c/../d") == "/a/d"
    assert paths.working_directory("", "b") == "/b"
    assert paths.working_directory("/a", "/p/") == "/p/"
    assert paths.working_directory("/a", "") == "/a"


def test_wildcards_count_only_unescaped():
    patterns = ["a/[bc]", "*", "a?", r"\\*", r"a\*b", "a]b", "a"]
    assert [paths.has_wildcards(pattern) for pattern in patterns] == [True] * 4 + [False] * 3


def test_owners_are_numbers_or_names():
    assert parse_owner("5:6") == Owner(user=5, group=6)
    assert parse_owner("bob") == Owner(user="bob", group=None)
    assert parse_owner("bob:grp") == Owner(user="bob", group="grp")
    assert parse_owner("9" * 5000).user == "9" * 5000
    assert parse_owner("4294967296") == Owner(user="4294967296", group=None)
    assert parse_owner("root:root") == Owner(user=0, group=0)
    assert parse_owner("5:") == Owner(user=5, group=0)


@pytest.mark.parametrize(
    ("text", "mode"), [("0640", 0o640), ("7777", 0o7777), ("u=rwX,go=rX", "u=rwX,go=rX"), ("+x", "+x")]
)
def test_modes_are_octal_or_symbolic(text, mode):
    assert parse_mode(text) == mode


@pytest.mark.parametrize("text", ["10000", "8", "0x1", "u", "u=rwz", "u=r,", "rwx", "r-x"])
def test_other_modes_are_refused(text):
    with pytest.raises(ValueError, match="invalid chmod parameter: '"):
        parse_mode(text)


@pytest.mark.parametrize(
    ("word", "ports"),
    [
        ("80", ["80/tcp"]),
        ("53/UDP", ["53/udp"]),
        ("8000-8002/sctp", ["8000/sctp", "8001/sctp", "8002/sctp"]),
        ("8080:80", ["80/tcp"]),
        ("127.0.0.1:8080:80", ["80/tcp"]),
        ("[::1]::80", ["80/tcp"]),
        ("9000-9001:80-81", ["80/tcp", "81/tcp"]),
        ("9000-9009:80", ["80/tcp"]),
        ("80/", ["80/tcp"]),
    ],
)
def test_exposed_ports_are_those_inside_the_container(word, ports):
    assert parse_ports(word) == ports


@pytest.mark.parametrize(
    ("word", "reason"),
    [
        ("", "no port specified: <empty>"),
        ("/tcp", "no port specified: /tcp<empty>"),
        ("80/icmp", "invalid proto: icmp"),
        ("65536", "invalid containerPort: 65536"),
        ("9" * 5000, "invalid containerPort: " + "9" * 5000),
        ("90-80", "invalid containerPort: 90-80"),
        ("eighty", "invalid containerPort: eighty"),
        ("x:80", "invalid hostPort: x"),
        ("1-2:80-90", "invalid ranges specified for container and host Ports: 80-90 and 1-2"),
        ("h.io:1:80", "invalid IP address: h.io"),
    ],
)
def test_what_is_no_port_is_refused(word, reason):
    with pytest.raises(ValueError, match=f"^{re.escape(reason)}$"):
        parse_ports(word)


def test_signals_are_names_with_and_without_sig_and_numbers():
    for signal in ("SIGTERM", "term", "9", "SIGRTMIN+3", "rtmax-14", "SIGWINCH"):
        check_signal(signal)
    for signal in ("", "0", "9" * 5000, "SIGNOPE", "RTMIN+16", "TERM "):
        with pytest.raises(ValueError, match="Invalid signal"):
            check_signal(signal)


def test_git_sources_are_told_from_urls_and_paths():
    assert remotes.parse_git("https://github.com/moby/buildkit.git#v1:docs") == remotes.GitReference(
        remote="https://github.com/moby/buildkit.git", ref="v1", subdir="docs"
    )
    assert remotes.parse_git("git@host.io:a/b.git#main") == remotes.GitReference(
        remote="git@host.io:a/b.git", ref="main"
    )
    assert remotes.parse_git("ssh://git@host.io/a/b") == remotes.GitReference(remote="ssh://git@host.io/a/b")
    for source in ("https://host.io/a.tgz", "github.com/a/b", "./a", "a:b", "C:x", "ftp://h/a.git"):
        assert remotes.parse_git(source) is None
    assert remotes.is_http("https://host.io/a.tgz")
    assert not remotes.is_http("https://host.io/a.git")
    assert not remotes.is_http("a.tgz")


def test_a_git_query_names_branch_tag_and_flags():
    made = remotes.parse_git("https://h.io/r.git?branch=b&subdir=s&keep-git-dir=1&submodules=false&checksum=abc")
    assert made == remotes.GitReference(
        remote="https://h.io/r.git",
        ref="refs/heads/b",
        subdir="s",
        checksum="abc",
        keep_git_dir=True,
        submodules=False,
    )


@pytest.mark.parametrize(
    ("query", "reason"),
    [
        ("?x=1", 'unexpected query "x"'),
        ("?ref=", 'query "ref" has no value'),
        ("?ref=a&ref=b", 'query "ref" has multiple values'),
        ("?ref=a#b", 'ref conflicts: "b" vs "a"'),
        ("?tag=a&branch=b", "branch conflicts with tag"),
        ("?submodules=perhaps", 'invalid submodules value: "perhaps"'),
    ],
)
def test_a_git_query_that_contradicts_itself_is_refused(query, reason):
    with pytest.raises(ValueError, match=f"^{re.escape(reason)}$"):
        remotes.parse_git(f"https://h.io/r.git{query}")


@pytest.mark.parametrize(
    ("url", "name"),
    [
        ("https://e.com/x/f.tgz?a=b", "f.tgz"),
        ("https://e.com/x/", "x"),
        ("https://e.com/", "__unnamed__"),
        ("https://e.com", "__unnamed__"),
        ("https://e.com/a%20b", "a b"),
        ("https://e.com/%ff", "__unnamed__"),
    ],
)
def test_a_fetched_file_is_named_by_its_url(url, name):
    assert remotes.http_filename(url) == name


def test_proxy_arguments_reach_a_step_in_both_letter_cases():
    args = {"Http_Proxy": "http://p", "no_proxy": "", "OTHER": "1"}
    assert platformargs.proxy_env(args) == ("HTTP_PROXY=http://p", "http_proxy=http://p")
    assert platformargs.is_builtin("ALL_PROXY")
    assert platformargs.is_builtin("BUILDKIT_SYNTAX")
    assert not platformargs.is_builtin("OTHER")


def test_platform_arguments_can_be_overridden_from_the_command_line():
    args = platformargs.predefined_args(
        build=Platform.parse("linux/amd64"),
        target=Platform.parse("linux/arm/v7"),
        stage="",
        overrides={"TARGETARCH": "mine", "X": "y"},
    )
    assert args["BUILDPLATFORM"] == "linux/amd64"
    assert args["TARGETPLATFORM"] == "linux/arm/v7"
    assert (args["TARGETARCH"], args["TARGETVARIANT"], args["TARGETSTAGE"]) == ("mine", "v7", "default")
    assert "X" not in args


@pytest.mark.parametrize(
    ("nanoseconds", "text"),
    [
        (0, "0s"),
        (1, "1ns"),
        (1500, "1.5µs"),
        (30_000_000, "30ms"),
        (1_500_000_000, "1.5s"),
        (300_000_000_000, "5m0s"),
        (3_661_000_000_000, "1h1m1s"),
    ],
)
def test_durations_are_written_as_go_writes_them(nanoseconds, text):
    assert metadata.duration(nanoseconds) == text
