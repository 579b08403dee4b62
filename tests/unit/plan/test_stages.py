"""Stages: targets, bases, order, and what the target does not need."""

import pytest

from firekiln.build.graph import ContextSource, GitSource, HttpSource, ImageSource
from firekiln.build.plan import PlanOptions, plan, plan_to_json
from firekiln.dockerfile.convert import parse_dockerfile
from firekiln.errors import DockerfileError, ImageNotFoundError, UsageError
from firekiln.oci.config import Image, ImageConfig
from firekiln.oci.platform import Platform

THREE = """
FROM a AS one
RUN 1
FROM b AS two
COPY --from=one /x /x
FROM c AS three
RUN 3
"""


def test_only_what_the_target_needs_is_resolved_and_planned(made):
    plan = made(THREE)
    assert plan_to_json(plan)["sources"] == ["docker-image://docker.io/library/c:latest"]
    assert [reference for reference, _ in made.bases.asked] == ["docker.io/library/c:latest"]
    two = made(THREE, target="TWO")
    assert {vertex.stage for vertex in two.vertices} == {"one", "two"}
    assert made(THREE, target="0").vertices[-1].name == "[one 2/2] RUN 1"


def test_an_unknown_target_is_met_with_the_nearest_name(made):
    with pytest.raises(DockerfileError) as caught:
        made(THREE, target="tow")
    assert caught.value.message == 'target stage "tow" could not be found (did you mean two?)'
    assert caught.value.hint == "stages: one, two, three"
    with pytest.raises(DockerfileError, match=r'target stage "far away" could not be found$'):
        made(THREE, target="far away")


def test_a_stage_builds_on_another_by_its_lower_case_name(made):
    plan = made("FROM a AS Base\nENV A=1\nRUN 1\nFROM base\nRUN 2")
    assert [vertex.name for vertex in plan.vertices] == [
        "[base 1/2] FROM docker.io/library/a:latest",
        "[base 2/2] RUN 1",
        "[stage-1 1/1] RUN 2",
    ]
    assert plan.history[0].created_by == "ENV A=1"
    with pytest.raises(DockerfileError, match=r"repository name \(library/Base\) must be lowercase"):
        made("FROM a AS Base\nFROM Base")


def test_a_name_given_twice_means_the_later_stage(made):
    text = "FROM a AS x\nFROM b AS x\nFROM x\nRUN y"
    assert plan_to_json(made(text))["sources"] == ["docker-image://docker.io/library/b:latest"]
    assert plan_to_json(made(text, target="x"))["sources"] == ["docker-image://docker.io/library/b:latest"]


def test_copying_from_a_stage_further_down_is_refused_only_where_it_is_needed(made):
    text = "FROM a AS first\nCOPY --from=last / /\nFROM b AS last"
    assert made(text).target is not None
    with pytest.raises(DockerfileError) as caught:
        made(text, target="first")
    assert caught.value.message == (
        'cannot copy from stage "last", it needs to be defined before current stage "first"'
    )
    assert caught.value.location.start == 2
    with pytest.raises(DockerfileError, match='cannot mount from stage "last" to "/x"'):
        made("FROM a AS first\nRUN --mount=from=last,target=/x y\nFROM b AS last", target="first")


def test_stages_that_need_each_other_are_refused(made):
    with pytest.raises(DockerfileError, match="circular dependency detected on stage: stage-0"):
        made("FROM a\nCOPY --from=0 / /")
    with pytest.raises(DockerfileError, match="circular dependency detected on stage: x"):
        made("FROM a AS x\nCOPY --from=y / /\nFROM a AS y\nCOPY --from=x / /\nFROM z")


def test_blank_and_malformed_bases_are_refused_at_from(made):
    with pytest.raises(DockerfileError) as caught:
        made("ARG B\nFROM ${B}")
    assert (caught.value.message, caught.value.location.start) == ("base name (${B}) should not be blank", 2)
    with pytest.raises(DockerfileError) as caught:
        made("FROM %s")
    assert caught.value.message == 'failed to parse stage name "%s": invalid reference format'
    # as BuildKit: also where the target does not need the stage
    with pytest.raises(DockerfileError, match="invalid reference format"):
        made("FROM a:\nFROM b")


def test_a_platform_is_expanded_and_checked(made):
    made("ARG A=arm64\nFROM --platform=linux/$A b")
    assert made.bases.asked == [("docker.io/library/b:latest", Platform.parse("linux/arm64"))]
    with pytest.raises(DockerfileError) as caught:
        made("FROM --platform=$BULIDPLATFORM b")
    assert caught.value.message == ("empty platform value from expression $BULIDPLATFORM (did you mean BUILDPLATFORM?)")
    with pytest.raises(DockerfileError, match=r"failed to parse platform a/b/c/d: "):
        made("FROM --platform=a/b/c/d b")


def test_a_missing_image_is_the_resolvers_error_with_the_nearest_stage(made):
    def nothing(reference, platform):
        raise ImageNotFoundError(f"{reference} for {platform}: not found")

    dockerfile = parse_dockerfile("FROM a AS builder\nFROM bulider\n", file="Dockerfile")
    with pytest.raises(ImageNotFoundError) as caught:
        plan(dockerfile, PlanOptions(), nothing)
    assert caught.value.hint == "did you mean builder?"


def test_an_image_without_layers_is_as_good_as_scratch():
    def empty(reference, platform):
        return Image(platform=platform, config=ImageConfig(env=("A=1",)))

    dockerfile = parse_dockerfile("FROM a\nCOPY x y\n", file="Dockerfile")
    made = plan(dockerfile, PlanOptions(), empty)
    assert made.target.inputs[0] is None
    assert made.config.env[0] == "A=1"


def test_named_contexts_stand_for_stages_images_and_sources(made):
    text = "FROM a AS base\nRUN never\nFROM base\nCOPY --from=b / /b\nCOPY --from=files / /f\nCOPY --from=repo / /r"
    plan = made(
        text,
        contexts={
            "base": "docker-image://other:1",
            "b": "docker-image://bb",
            "files": "../dir",
            "repo": "https://h.io/r.git#v1",
        },
    )
    assert plan_to_json(plan)["sources"] == [
        "docker-image://docker.io/library/other:1",
        "docker-image://docker.io/library/bb:latest",
        "local://files",
        "git://h.io/r.git#v1",
    ]
    assert not plan_to_json(plan)["runs"]
    assert [type(vertex.op) for vertex in plan.vertices][:2] == [ImageSource, ImageSource]
    for value, reason in [
        ("ftp://x", "no such kind of context"),
        ("docker-image://A", "invalid reference format: repository name (library/A) must be lowercase"),
        ("https://h.io/r.git?x=1", 'unexpected query "x"'),
    ]:
        with pytest.raises(UsageError) as caught:
            made(text, contexts={"b": value})
        assert caught.value.message == f"--build-context b={value}: {reason}"


def test_a_stage_that_only_a_trigger_needs_is_resolved_with_all_that_it_reads(made):
    trigger = ImageConfig(on_build=("COPY --from=other /x /x",))
    plan = made("FROM a AS other\nCOPY --from=alpine /y /x\nFROM b", bases={"docker.io/library/b:latest": trigger})
    assert plan_to_json(plan)["sources"] == [
        "docker-image://docker.io/library/b:latest",
        "docker-image://docker.io/library/a:latest",
        "docker-image://docker.io/library/alpine:latest",
    ]


def test_no_cache_marks_the_steps_of_its_stages(made):
    text = "FROM a AS one\nRUN 1\nFROM b AS two\nRUN 2\nCOPY --from=one / /x"
    marked = [vertex.name for vertex in made(text, no_cache=frozenset({"one"})).vertices if vertex.ignore_cache]
    assert marked == ["[one 2/2] RUN 1"]
    everything = [vertex.name for vertex in made(text, no_cache=True).vertices if vertex.ignore_cache]
    assert len(everything) == 3


def test_warnings_are_values_with_a_place(made):
    plan = made(
        """
        ARG TAG
        FROM --platform=$TARGETPLATFORM b:$TAG
        WORKDIR rel
        RUN --mount=target=/x,source=$SRC y
        ENV A=${B:-b} C=$PAHT
        COPY secret.txt /
        CMD a
        CMD ["b"]
        """,
        build_args={"TAG": "1", "NOBODY": "x"},
        ignored=lambda path: path == "secret.txt",
    )
    assert [(warning.rule.name, warning.location.start) for warning in plan.warnings] == [
        ("InvalidDefaultArgInFrom", 2),
        ("RedundantTargetPlatform", 2),
        ("WorkdirRelativePath", 3),
        ("UndefinedVar", 4),
        ("UndefinedVar", 5),
        ("CopyIgnoredFile", 6),
        ("JSONArgsRecommended", 7),
        ("MultipleInstructionsDisallowed", 7),
    ]
    assert plan.notices == ("--build-arg NOBODY: no ARG of the stages that are built declares it",)
    assert plan.warnings[4].message == "the variable $PAHT is not defined (did you mean $PATH?)"
    undeclared = made("ARG VERSION=1\nFROM b:${VERSOIN}x").warnings
    assert [warning.rule.name for warning in undeclared] == ["UndefinedArgInFrom"]
    assert "did you mean VERSION?" in undeclared[0].message
    constant = made("FROM --platform=linux/arm64 b AS x").warnings
    assert [warning.rule.name for warning in constant] == ["FromPlatformFlagConstDisallowed"]
    assert made("FROM --platform=linux/arm64 b AS x-arm64").warnings == ()


def test_source_date_epoch_is_a_number_of_seconds(made):
    assert made("FROM b").source_date_epoch is None
    assert made("FROM b", build_args={"SOURCE_DATE_EPOCH": "1700000000"}).source_date_epoch == 1700000000
    plan = made("ARG SOURCE_DATE_EPOCH=5\nFROM b\nARG SOURCE_DATE_EPOCH\nRUN x")
    assert plan.source_date_epoch == 5
    assert plan.target.op.env[-1] == "SOURCE_DATE_EPOCH=5"
    with pytest.raises(DockerfileError, match="invalid SOURCE_DATE_EPOCH: 9999"):
        made("FROM b", build_args={"SOURCE_DATE_EPOCH": "9" * 5000})
    with pytest.raises(DockerfileError) as caught:
        made("ARG SOURCE_DATE_EPOCH=%d\nFROM b")
    assert caught.value.message == "invalid SOURCE_DATE_EPOCH: %d"
    assert caught.value.location.start == 1


def test_source_date_epoch_may_be_the_time_of_a_source(made):
    asked = []

    def epoch(source):
        asked.append(source)
        return 77

    text = """
    ARG SOURCE_DATE_EPOCH=src
    FROM scratch AS src
    ARG V=1
    ADD https://e.com/s-$V.tar /
    FROM b
    ARG SOURCE_DATE_EPOCH
    RUN x
    """
    plan = made(text, source_epoch=epoch)
    assert plan.source_date_epoch == 77
    assert plan.target.op.env[-1] == "SOURCE_DATE_EPOCH=77"
    assert asked == [HttpSource(url="https://e.com/s-1.tar", filename="s-1.tar")]
    made("FROM b", build_args={"SOURCE_DATE_EPOCH": "context"}, source_epoch=epoch)
    assert asked[1] == ContextSource()
    made(text.replace("https://e.com/s-$V.tar", "https://e.com/s.git#v$V"), source_epoch=epoch)
    assert asked[2] == GitSource(remote="https://e.com/s.git", ref="v1")
    unknown = made(text)
    assert unknown.source_date_epoch is None
    assert unknown.notices == ("SOURCE_DATE_EPOCH=src tells no time: times are left alone",)
    assert not any("EPOCH" in line for line in unknown.target.op.env)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("COPY a b", "SOURCE_DATE_EPOCH stage does not meet source-only requirements: unsupported COPY instruction"),
        ("ADD a b", "SOURCE_DATE_EPOCH stage source must be a single HTTP(S) or Git ADD"),
        ("ARG x", "SOURCE_DATE_EPOCH stage must contain exactly one remote ADD"),
        ("ADD http://a b\nADD http://b c", "SOURCE_DATE_EPOCH stage must contain exactly one remote ADD"),
        ("ADD http://a http://b c", "SOURCE_DATE_EPOCH stage must contain exactly one remote ADD source"),
    ],
)
def test_a_stage_that_tells_the_time_may_only_fetch_one_thing(made, body, message):
    with pytest.raises(DockerfileError) as caught:
        made(f"ARG SOURCE_DATE_EPOCH=src\nFROM scratch AS src\n{body}\nFROM b")
    assert caught.value.message == message


def test_planning_is_pure_and_repeatable(made):
    text = THREE + "COPY --from=two /x /y\n"
    one, other = plan_to_json(made(text)), plan_to_json(made(text))
    assert one == other
