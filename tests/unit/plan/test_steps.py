"""COPY, ADD and RUN: the vertices that they become."""

import base64

import pytest

from firekiln.build.graph import (
    BindMount,
    CacheMount,
    ContextSource,
    Copy,
    ExecOp,
    FileOp,
    GitSource,
    HttpSource,
    InlineFile,
    MergeOp,
    Network,
    Owner,
    SecretMount,
    Sharing,
    SshMount,
    TmpfsMount,
)
from firekiln.build.plan import plan_to_json
from firekiln.errors import DockerfileError

TOO_LONG = "repository name must not be more than 255 characters"
EXPANSION = (
    "variable expansion is not supported for --from, define a new stage with FROM using ARG from global scope as a "
    "workaround"
)
LOCAL = {
    "createDestPath": True,
    "followSymlink": True,
    "dirCopyContents": True,
    "allowWildcard": True,
    "allowEmptyWildcard": True,
    "timestamp": "-1",
    "mode": -1,
}


def files(plan):
    return plan_to_json(plan)["files"]


def ops(plan, kind):
    return [vertex.op for vertex in plan.vertices if isinstance(vertex.op, kind)]


def test_copy_takes_its_sources_in_order_from_the_context(made):
    plan = made("FROM b\nWORKDIR /y/z\nCOPY a ../b /c/./ ./")
    assert files(plan)[1:] == [{"copy": {**LOCAL, "src": src, "dest": "/y/z/"}} for src in ("/a", "/b", "/c")]
    context = [vertex for vertex in plan.vertices if isinstance(vertex.op, ContextSource)]
    assert [vertex.name for vertex in context] == ["[internal] load build context"]
    assert plan.target.inputs[1] is context[0]


def test_the_exec_form_and_quotes_name_paths_with_spaces(made):
    plan = made('FROM b\nENV A="x y"\nCOPY $A "q" r a\\ b /d/\nCOPY ["a b", "$A", "/d/"]')
    sources = [action["copy"]["src"] for action in files(plan)]
    assert sources[:3] == ["/x y", "/q", "/r"]
    assert sources[-2:] == ["/a b", "/x y"]


def test_copy_from_a_stage_a_number_and_an_image(made):
    plan = made(
        """
        FROM c AS Built
        RUN make
        FROM b
        COPY --from=built /a /1
        COPY --from=0 /a /2
        COPY --from=alpine:3 /a /3
        """
    )
    assert [vertex.name for vertex in plan.vertices] == [
        "[stage-1 1/4] FROM docker.io/library/b:latest",
        "[built 1/2] FROM docker.io/library/c:latest",
        "[built 2/2] RUN make",
        "[stage-1 2/4] COPY --from=built /a /1",
        "[stage-1 3/4] COPY --from=0 /a /2",
        "FROM docker.io/library/alpine:3",
        "[stage-1 4/4] COPY --from=alpine:3 /a /3",
    ]
    built = plan.vertices[2]
    assert plan.vertices[3].inputs == (plan.vertices[0], built)
    assert plan.vertices[4].inputs == (plan.vertices[3], built)


def test_flags_of_copy_reach_every_action(made):
    plan = made("FROM b\nCOPY --chown=5:grp --chmod=u=rwX,go=rX --exclude=*.md --exclude=x a b /d/")
    common = {
        **LOCAL,
        "dest": "/d/",
        "owner": {"user": {"byID": 5}, "group": {"byName": {"name": "grp"}}},
        "modeStr": "u=rwX,go=rX",
        "excludePatterns": ["*.md", "x"],
    }
    del common["mode"]
    assert files(plan) == [{"copy": {**common, "src": "/a"}}, {"copy": {**common, "src": "/b"}}]


def test_parents_keeps_what_follows_the_pivot_and_requires_plain_paths(made):
    plan = made("FROM b\nCOPY --parents ./a/./b/**/c* x y/./z /d/")
    actions = [
        (action.src, action.include_patterns, action.required_paths)
        for action in plan.target.op.actions
        if isinstance(action, Copy)
    ]
    assert actions == [
        ("/a", ("b/**/c*",), ()),
        ("/", ("x",), ("/x",)),
        ("/y", ("z",), ("/y/z",)),
    ]


def test_link_makes_a_layer_of_its_own_and_merges_it(made):
    plan = made("FROM b\nCOPY --link --chown=5:6 f /g")
    assert isinstance(plan.target.op, MergeOp)
    base, layer = plan.target.inputs
    assert layer.inputs[0] is None
    assert layer.op.link
    assert layer.op.actions[0].owner == Owner(user=5, group=6)
    assert plan.target.name == "[2/2] LINK COPY --link --chown=5:6 f /g"
    assert base.name.startswith("[1/2] FROM")
    assert plan.history[0].vertex is layer


def test_link_on_scratch_needs_no_merge_and_with_chmod_is_no_link(made):
    alone = made("FROM scratch\nCOPY --link f /g").target
    assert isinstance(alone.op, FileOp)
    changed = made("FROM b\nCOPY --link --chmod=755 f /g").target
    assert isinstance(changed.op, FileOp)
    assert not changed.op.link
    assert changed.inputs[0] is not None


def test_heredocs_are_files_with_variables_expanded_unless_the_name_is_quoted(made):
    plan = made(
        'FROM b\nENV A=1\nCOPY --chmod=600 <<EOF <<-"Q" /d/\n$A "$B" \'$A\' \\$A\nEOF\n\t$A\n\t\tx\nQ\n',
        dedent=False,
    )
    one, two = plan.target.op.actions
    assert one.source == InlineFile(name="EOF", data=b"1 \"\" '1' $A\n")
    assert two.source == InlineFile(name="Q", data=b"$A\nx\n")
    assert (one.src, two.dest, two.mode) == ("/EOF", "/d/", 0o600)
    assert not one.follow_symlink
    assert [action["mkfile"]["path"] for action in files(plan)[:2]] == ["/EOF", "/Q"]
    assert base64.b64decode(files(plan)[1]["mkfile"]["data"]) == b"$A\nx\n"
    assert not ops(plan, ContextSource)


def test_add_fetches_urls_under_their_names(made):
    digest = "sha256:" + "a" * 64
    plan = made(f"FROM b\nADD --checksum={digest} --chmod=644 https://e.com/x/f.tgz /d/")
    assert ops(plan, HttpSource) == [HttpSource(url="https://e.com/x/f.tgz", checksum=digest, filename="f.tgz")]
    assert files(plan) == [
        {"copy": {"src": "/f.tgz", "dest": "/d/", "mode": 0o644, "createDestPath": True, "timestamp": "-1"}}
    ]
    assert not ops(plan, ContextSource)


def test_add_unpacks_local_archives_and_urls_only_when_told(made):
    plan = made("FROM b\nADD f.tar.gz /t\nADD --unpack=false f.tar.gz /t\nADD --unpack https://e.com/f.tgz /t")
    assert [action.unpack for op in ops(plan, FileOp) for action in op.actions] == [True, False, True]


def test_add_clones_git_repositories(made):
    plan = made("FROM b\nADD --keep-git-dir=true https://github.com/moby/buildkit.git#v1:docs /g")
    (source,) = ops(plan, GitSource)
    assert (source.remote, source.ref, source.subdir) == ("https://github.com/moby/buildkit.git", "v1", "docs")
    assert source.keep_git_dir
    assert plan_to_json(plan)["sources"][1] == "git://github.com/moby/buildkit.git#v1:docs"
    assert files(plan)[0]["copy"] == {"src": "/", "dest": "/g", "mode": -1, "createDestPath": True, "timestamp": "-1"}


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("COPY https://e.com/f /f", "source can't be a URL for COPY"),
        ("COPY https://e.com/f.git /f", "source can't be a git ref for COPY"),
        ("ADD --checksum=sha256:x f /f", "checksum requires HTTP(S) or Git sources"),
        (
            "ADD --checksum=sha256:x https://e.com/f https://e.com/g /",
            "checksum can't be specified for multiple sources",
        ),
        ("ADD --checksum=sha256:x https://e.com/f /f", "invalid checksum digest length"),
        ("ADD https://e.com/f.git?x=1 /f", 'unexpected query "x"'),
        (
            "ADD --keep-git-dir=false https://e.com/f.git?keep-git-dir=true /f",
            "inconsistent keep-git-dir configuration",
        ),
        (
            "COPY --from=$x a b",
            EXPANSION,
        ),
        ("COPY --from=7 a b", "invalid stage index 7"),
        (f"COPY --from={'9' * 5000} a b", f'failed to parse stage name "{"9" * 5000}": {TOO_LONG}'),
        ("RUN --mount=target=/ x", 'invalid mount target "/"'),
        ("RUN --mount=type=ssh,source=/x x", "ssh does not support source"),
        ("RUN --device=vendor.com/gpu x", "RUN --device is not supported: a step has no devices of the host"),
    ],
)
def test_impossible_sources_are_refused_at_their_line(made, line, message):
    with pytest.raises(DockerfileError) as caught:
        made(f"FROM b\n\n{line}")
    assert caught.value.message == message
    assert caught.value.location.start == 3


def test_run_has_a_shell_form_and_an_exec_form(made):
    plan = made(
        'FROM b\nRUN echo "$A" && \\\n    b\nSHELL ["/bin/ash", "-eo", "pipefail", "-c"]\nRUN x | y\nRUN ["a", "$B"]'
    )
    assert [op.args for op in ops(plan, ExecOp)] == [
        ("/bin/sh", "-c", 'echo "$A" &&     b'),
        ("/bin/ash", "-eo", "pipefail", "-c", "x | y"),
        ("a", "$B"),
    ]


def test_heredocs_of_run_become_scripts(made):
    plan = made(
        "FROM b\nENV A=1\n"
        "RUN <<EOF\necho $A\nEOF\n"
        'RUN cat <<E1 >x && cat <<-"E2"\na $A\nE1\n\tb\nE2\n'
        "RUN <<PY\n#!/usr/bin/env python\nprint(1)\nPY\n"
        "RUN 3<<EOF cat /dev/fd/3\nz\nEOF\n",
        dedent=False,
    )
    runs = ops(plan, ExecOp)
    assert [op.args[-1] for op in runs] == [
        "echo $A\n",
        'cat <<E1 >x && cat <<-"E2"\na $A\nE1\n\tb\nE2',
        "/dev/pipes/PY",
        "3<<EOF cat /dev/fd/3\nz\nEOF",
    ]
    script = InlineFile(name="PY", data=b"#!/usr/bin/env python\nprint(1)\n", mode=0o755)
    assert runs[2].mounts == (BindMount(target="/dev/pipes", input=None, files=(script,)),)
    assert [vertex.name for vertex in plan.vertices][1] == "[2/5] RUN <<EOF (echo 1)"
    assert [vertex.name for vertex in plan.vertices][3] == "[4/5] RUN <<PY (#!/usr/bin/env python...)"


def test_every_kind_of_mount_is_typed(made):
    plan = made(
        """
        FROM c AS other
        RUN o
        FROM b
        WORKDIR /w
        ENV I=id1
        RUN --mount=type=cache,id=$I,target=/c,sharing=locked,uid=1,mode=0700 \\
            --mount=type=tmpfs,target=/t,size=64m \\
            --mount=target=y,source=x \\
            --mount=from=other,target=/o,rw \\
            --mount=type=secret,id=k,target=/sec,env=K \\
            --mount=type=secret,id=k2 \\
            --mount=type=secret,id=k3,env=K3,required \\
            --mount=type=ssh \\
            --network=none --security=insecure x
        """
    )
    op = plan.target.op
    assert op.mounts == (
        CacheMount(target="/c", id="id1", sharing=Sharing.LOCKED, mode=0o700, uid=1),
        BindMount(target="/o", input=2, readonly=False),
        TmpfsMount(target="/t", size=64 << 20),
        BindMount(target="/w/y", input=1, source="/x"),
        SecretMount(id="k", target="/sec", env="K"),
        SecretMount(id="k2", target="/run/secrets/k2"),
        SecretMount(id="k3", target=None, env="K3", required=True),
        SshMount(id="default", target="/run/buildkit/ssh_agent.0"),
    )
    assert (op.network, op.insecure) == (Network.NONE, True)
    assert op.env[-1] == "SSH_AUTH_SOCK=/run/buildkit/ssh_agent.0"
    assert [type(vertex.op) for vertex in plan.target.inputs[1:]] == [ContextSource, ExecOp]
    assert plan.config.env[-1] == "I=id1"


def test_a_cache_is_named_by_its_target_and_filled_from_its_source(made):
    plan = made(
        """
        FROM c AS seed
        RUN o
        FROM b
        RUN --mount=type=cache,target=/a/../c --mount=type=cache,from=seed,source=/s,target=/d,uid=5 x
        """
    )
    assert plan.target.op.mounts == (
        CacheMount(target="/c", id="/c"),
        CacheMount(target="/d", id="/d", input=1, source="/s"),
    )


def test_equal_steps_are_one_vertex(made):
    plan = made("FROM b AS x\nRUN a\nFROM b AS y\nRUN a\nFROM c\nCOPY --from=x / /x\nCOPY --from=y / /y")
    assert len(ops(plan, ExecOp)) == 1
    assert len(plan_to_json(plan)["sources"]) == 2


def test_names_show_the_values_that_the_build_knows(made):
    plan = made(
        """
        FROM b
        ENV D=/d
        copy f $D
        RUN --mount=type=secret,id=s,env=S echo "$D" $HOME $S
        """
    )
    assert [vertex.name for vertex in plan.vertices if vertex.op != ContextSource()] == [
        "[1/3] FROM docker.io/library/b:latest",
        "[2/3] COPY f /d",
        '[3/3] RUN --mount=type=secret,id=s,env=S echo "/d" $HOME ****',
    ]


def test_step_numbers_are_aligned(made):
    plan = made("FROM b\n" + "RUN x\n" * 10)
    assert plan.vertices[0].name.startswith("[ 1/11] FROM")
    assert plan.vertices[-1].name == "[11/11] RUN x"
