"""Scopes and configs: what ends up in the environment of a step and in the image."""

import pytest

from firekiln.build.graph import ExecOp
from firekiln.build.plan import plan_to_json
from firekiln.errors import DockerfileError
from firekiln.oci.config import Healthcheck, ImageConfig
from firekiln.oci.platform import Platform

PATH = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def runs(plan):
    return [vertex.op for vertex in plan.vertices if isinstance(vertex.op, ExecOp)]


def env_of(plan):
    """The variables of the last step, without PATH."""
    return [line for line in runs(plan)[-1].env if not line.startswith("PATH=")]


def test_an_empty_base_gets_the_default_path(made):
    plan = made("FROM b")
    assert plan.config == ImageConfig(env=(PATH,))
    assert plan_to_json(plan) == {
        "config": {"Env": [PATH]},
        "runs": [],
        "files": [],
        "sources": ["docker-image://docker.io/library/b:latest"],
    }


def test_scratch_starts_in_the_root_with_a_path(made):
    plan = made('FROM scratch\nENTRYPOINT ["/x"]', dedent=False)
    assert (plan.target, plan.vertices, plan.base) == (None, (), None)
    assert plan.config == ImageConfig(env=(PATH,), working_dir="/", entrypoint=("/x",))
    assert made.bases.asked == []


def test_the_whole_base_config_is_inherited(made):
    base = ImageConfig(
        user="bob:grp",
        env=("PATH=/bin", "X=base"),
        entrypoint=("e",),
        cmd=("c",),
        volumes=("/v",),
        working_dir="/w",
        labels={"l": "1"},
        exposed_ports=("1/tcp",),
        stop_signal="SIGINT",
        shell=("/bin/bash", "-c"),
        healthcheck=Healthcheck(test=("CMD", "t")),
        extra={"Vendor": 1},
    )
    plan = made("FROM b\nRUN y", bases={"docker.io/library/b:latest": base})
    assert plan.config == base
    (op,) = runs(plan)
    assert (op.args, op.cwd, op.user) == (("/bin/bash", "-c", "y"), "/w", "bob:grp")
    assert op.env == ("PATH=/bin", "X=base")


def test_a_base_images_triggers_run_first_and_are_gone_from_the_result(made):
    base = ImageConfig(
        user="bob:grp",
        env=("PATH=/bin", "X=base"),
        working_dir="/w",
        shell=("/bin/bash", "-c"),
        on_build=("ARG ARGX=b", "ENV ARGX=$ARGX", "RUN echo onb", "COPY --from=late /x /y"),
    )
    plan = made(
        """
        FROM l AS late
        FROM b
        RUN y
        ENTRYPOINT ["x"]
        """,
        bases={"docker.io/library/b:latest": base},
    )
    first, second = runs(plan)
    assert first.args == ("/bin/bash", "-c", "echo onb")
    assert second.args == ("/bin/bash", "-c", "y")
    assert first.env == second.env == ("PATH=/bin", "X=base", "ARGX=b")
    assert plan.config.env == ("PATH=/bin", "X=base", "ARGX=b")
    assert plan.config.on_build == ()
    assert [v.name for v in plan.vertices if "ONBUILD" in v.name] == [
        "[stage-1 2/4] ONBUILD RUN echo onb",
        "[stage-1 3/4] ONBUILD COPY --from=late /x /y",
    ]
    assert {reference for reference, _ in made.bases.asked} == {
        "docker.io/library/l:latest",
        "docker.io/library/b:latest",
    }


def test_a_stages_own_triggers_run_in_the_stages_built_on_it(made):
    plan = made(
        """
        FROM b AS base
        ONBUILD RUN a
        FROM base
        RUN c
        """
    )
    assert [op.args[-1] for op in runs(plan)] == ["a", "c"]
    assert plan.config.on_build == ()
    assert made("FROM b\nONBUILD RUN a").config.on_build == ("RUN a",)


def test_a_trigger_that_is_no_instruction_is_refused_at_from(made):
    base = ImageConfig(on_build=("NOPE x",))
    with pytest.raises(DockerfileError) as caught:
        made("ARG x\nFROM b", bases={"docker.io/library/b:latest": base})
    assert caught.value.location.start == 2


def test_entrypoint_takes_an_inherited_cmd_away_but_not_the_stages_own(made):
    base = {"docker.io/library/b:latest": ImageConfig(cmd=("old",), entrypoint=("olde",))}
    assert made('FROM b\nENTRYPOINT ["e"]', bases=base).config.cmd is None
    own = made('FROM b\nCMD ["c"]\nENTRYPOINT e $X', bases=base).config
    assert own.cmd == ("c",)
    assert own.entrypoint == ("/bin/sh", "-c", "e $X")
    assert own.args_escaped
    child = made('FROM b AS s\nCMD ["c"]\nFROM s\nENTRYPOINT ["e"]', bases=base)
    assert child.config.cmd is None


def test_an_empty_cmd_unsets_an_inherited_one(made):
    base = {"docker.io/library/b:latest": ImageConfig(cmd=("old",), entrypoint=("e",))}
    plan = made("FROM b\nCMD []\nENTRYPOINT []", bases=base)
    assert (plan.config.cmd, plan.config.entrypoint) == ((), ())
    assert plan_to_json(plan)["config"] == {"Env": [PATH], "ArgsEscaped": True}


def test_a_global_arg_reaches_a_stage_only_when_it_is_named_there(made):
    plan = made(
        """
        ARG V=1
        FROM b
        RUN a$V
        ARG V
        RUN b
        """
    )
    assert [op.args[-1] for op in runs(plan)] == ["a$V", "b"]
    assert "V=1" not in runs(plan)[0].env
    assert env_of(plan) == ["V=1"]
    assert plan.config.env == (PATH,)


def test_an_arg_after_env_wins_for_steps_while_the_image_keeps_the_env(made):
    plan = made("FROM b\nENV X=env\nARG X=default\nRUN a", build_args={"X": "cli"})
    assert env_of(plan) == ["X=cli"]
    assert plan.config.env == (PATH, "X=env")


def test_an_env_after_arg_wins_everywhere_and_may_use_it(made):
    plan = made("FROM b\nARG X=1\nENV X=${X}2\nRUN a", build_args={"X": "cli"})
    assert env_of(plan) == ["X=cli2"]
    assert plan.config.env == (PATH, "X=cli2")


def test_all_pairs_of_one_env_see_the_environment_before_it(made):
    plan = made("FROM b\nENV abc=hello\nENV abc=bye def=$abc\nENV ghi=$abc\nRUN x")
    assert env_of(plan) == ["abc=bye", "def=hello", "ghi=bye"]


def test_arguments_are_inherited_by_the_stages_built_on_a_stage(made):
    plan = made("FROM b AS s\nARG A=1\nENV E=2\nARG E=3\nFROM s\nRUN x")
    assert env_of(plan) == ["A=1", "E=2"]


def test_defaults_of_args_build_on_each_other_also_in_from(made):
    plan = made(
        """
        ARG A=1
        ARG B=$A-2
        FROM b:${B}
        ARG B
        ARG C=$B
        RUN x
        """
    )
    assert made.bases.asked[0][0] == "docker.io/library/b:1-2"
    assert env_of(plan) == ["B=1-2", "C=1-2"]


def test_platform_arguments_come_in_by_name(made):
    plan = made(
        """
        FROM --platform=$BUILDPLATFORM b
        ARG TARGETPLATFORM
        ARG TARGETARCH TARGETVARIANT
        ARG BUILDOS TARGETSTAGE
        RUN x
        """,
        platform=Platform.parse("linux/arm/v7"),
    )
    assert env_of(plan) == [
        "TARGETPLATFORM=linux/arm/v7",
        "TARGETARCH=arm",
        "TARGETVARIANT=v7",
        "BUILDOS=linux",
        "TARGETSTAGE=default",
    ]
    assert str(plan.platform) == "linux/arm/v7"
    assert [str(platform) for _, platform in made.bases.asked] == ["linux/amd64"]


def test_proxy_arguments_reach_the_step_and_nothing_else(made):
    plan = made("FROM b\nRUN x", build_args={"HTTP_PROXY": "http://p:1"})
    (op,) = runs(plan)
    assert op.proxy_env == ("HTTP_PROXY=http://p:1", "http_proxy=http://p:1")
    assert "p:1" not in repr((op.env, plan.config, [step.created_by for step in plan.history]))
    assert plan.warnings == ()


def test_quotes_and_escapes_of_env_are_a_shells(made):
    plan = made(
        'FROM b\nENV A=\'$X\' B="a\\"b" C=a\\ b D=\\$X\nENV E=\\\\n F=${Y:-X} G=${Z:+no}u\nENV H two words "q"\nRUN x',
        dedent=False,
    )
    assert env_of(plan) == ["A=$X", 'B=a"b', "C=a b", "D=$X", "E=\\n", "F=X", "G=u", "H=two words q"]


def test_an_open_quote_is_refused_where_it_stands(made):
    with pytest.raises(DockerfileError) as caught:
        made('FROM b\nLABEL a=b\nVOLUME "/b')
    assert caught.value.message == (
        'failed to process "\\"/b": unexpected end of statement while looking for matching double-quote'
    )
    assert str(caught.value.location) == "Dockerfile:3"
    assert caught.value.span == '"/b'


def test_a_required_variable_without_a_value_is_refused_with_its_message(made):
    with pytest.raises(DockerfileError, match="X: need X"):
        made("FROM b\nUSER ${X:?need X}")


def test_workdirs_are_made_for_the_user_who_works_there(made):
    plan = made(
        """
        FROM b
        WORKDIR /a
        WORKDIR b c
        WORKDIR /y
        USER 1:2
        WORKDIR z
        USER bob
        WORKDIR ../q/
        WORKDIR /
        """
    )
    assert plan_to_json(plan)["files"] == [
        {"mkdir": {"path": path, "mode": 0o755, "makeParents": True, "timestamp": "-1", **owner}}
        for path, owner in [
            ("/a", {}),
            ("/a/b c", {}),
            ("/y", {}),
            ("/y/z", {"owner": {"user": {"byID": 1}, "group": {"byID": 2}}}),
            ("/y/q", {"owner": {"user": {"byName": {"name": "bob"}}}}),
        ]
    ]
    assert plan.config.working_dir == "/"


def test_an_absolute_workdir_stays_in_the_config_as_it_was_spelled(made):
    plan = made("FROM b\nENV D=/p\nWORKDIR $D/$NOTHING")
    assert plan.config.working_dir == "/p/"
    assert plan_to_json(plan)["files"][0]["mkdir"]["path"] == "/p"


def test_ports_are_expanded_into_words_and_ranges(made):
    plan = made('FROM b\nENV P="80 443/udp"\nEXPOSE $P 1000-1002')
    assert plan.config.exposed_ports == ("1000/tcp", "1001/tcp", "1002/tcp", "443/udp", "80/tcp")


@pytest.mark.parametrize(
    ("word", "ports"),
    [
        ("1${P:-81}", ("80/tcp",)),
        ("1${P}", ("180/tcp",)),
        ("1$P", ("180/tcp",)),
        ('1"2${P:-81}"', ("280/tcp",)),
        ("${TWO}3${P:-81}", ("7/tcp", "80/tcp")),
        ("1${Q:-${P:-1}}/udp", ("80/udp",)),
        ("1${Q:-7}${P}", ("780/tcp",)),
    ],
)
def test_what_stands_before_a_modified_variable_is_lost_from_expose_as_in_buildkit(made, word, ports):
    assert made(f'FROM b\nENV P=80 TWO="7 8"\nEXPOSE {word}').config.exposed_ports == ports


def test_labels_of_the_command_line_win(made):
    plan = made("FROM b\nLABEL a=1 b=2\nLABEL a.$b=3", labels={"b": "cli", "c": "4"})
    assert plan.config.labels == {"a": "1", "b": "cli", "a.": "3", "c": "4"}


def test_the_other_instructions_reach_the_config(made):
    plan = made(
        """
        FROM b
        ENV S=SIGINT V=/vol U=me
        STOPSIGNAL $S
        VOLUME $V /w
        USER ${U}:grp
        SHELL ["/bin/bash", "-c"]
        MAINTAINER me
        HEALTHCHECK --interval=5m --timeout=3s --retries=4 CMD curl x || exit 1
        CMD go
        """
    )
    config = plan.config
    assert (config.stop_signal, config.volumes, config.user) == ("SIGINT", ("/vol", "/w"), "me:grp")
    assert config.shell == ("/bin/bash", "-c")
    assert config.cmd == ("/bin/bash", "-c", "go")
    assert plan.author == "me"
    assert config.healthcheck == Healthcheck(
        test=("CMD-SHELL", "curl x || exit 1"), interval=300 * 10**9, timeout=3 * 10**9, retries=4
    )


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("STOPSIGNAL nope", "Invalid signal: nope"),
        ('VOLUME [""]', "VOLUME specified can not be an empty string"),
        ("EXPOSE eighty", "invalid containerPort: eighty"),
        ("RUN --mount=type=tmp,target=/x y", 'unsupported mount type "tmp" (did you mean tmpfs?)'),
        (
            "COPY --chmod=10000 a b",
            "invalid chmod parameter: '10000'. it should be octal string and between 0 and 07777",
        ),
    ],
)
def test_what_makes_no_sense_is_refused_at_its_line(made, line, message):
    with pytest.raises(DockerfileError) as caught:
        made(f"FROM b\nENV x=y\n{line}")
    assert caught.value.message == message
    assert caught.value.location.start == 3
    assert caught.value.source is not None


def test_history_is_written_as_buildkit_writes_it(made):
    plan = made(
        """
        FROM b
        ARG A=1 B
        ENV E=$A F=2
        RUN make
        WORKDIR /w
        COPY --chown=1:2 a b /o/
        LABEL l=1
        CMD ["a", "b\\"c"]
        EXPOSE 80 90/udp
        VOLUME /v
        SHELL ["/bin/bash", "-c"]
        HEALTHCHECK --interval=5m CMD x
        USER me
        STOPSIGNAL 9
        """
    )
    assert [step.created_by for step in plan.history] == [
        "ARG A=1 B",
        "ENV E=1 F=2",
        "RUN |2 A=1 B= /bin/sh -c make # buildkit",
        "WORKDIR /w",
        "COPY --chown=1:2 a b /o/ # buildkit",
        "LABEL l=1",
        'CMD ["a" "b\\"c"]',
        "EXPOSE [80/tcp 90/udp]",
        "VOLUME [/v]",
        "SHELL [/bin/bash -c]",
        'HEALTHCHECK &{["CMD-SHELL" "x"] "5m0s" "0s" "0s" "0s" \'\\x00\'}',
        "USER me",
        "STOPSIGNAL 9",
    ]
    layers = [step.vertex for step in plan.history if step.vertex is not None]
    assert layers == list(plan.vertices[1:2]) + [
        v for v in plan.vertices[2:] if v.name != "[internal] load build context"
    ]
    assert plan.base is not None
