"""The Dockerfiles that stages become, which Docker's classic builder is to read."""

import pytest

from firekiln.build.plan import PlanOptions
from firekiln.build.stageengine.dockerfile import stage_builds
from firekiln.dockerfile.convert import convert_syntax
from firekiln.dockerfile.parser import parse_syntax
from firekiln.errors import BuildError


def builds(text, *, buildkit=False, **options):
    dockerfile = convert_syntax(parse_syntax(text, file="Dockerfile"))
    return stage_builds(dockerfile, PlanOptions(**options), lambda index: f"stage:{index}", buildkit=buildkit)


def test_a_stage_becomes_a_file_of_its_own_without_its_name():
    (made,) = builds("FROM debian:12 AS one\nRUN a \\\n  b\nENV A=b\nFROM scratch\nCOPY --from=one /a /b\n")
    assert made.text == "# escape=\\\nFROM debian:12\nRUN a \\\n  b\nENV A=b\n"
    assert (made.base, made.context, made.is_base, made.is_read) == ("debian:12", False, False, True)


def test_stages_read_one_another_by_the_images_names_whether_named_or_numbered():
    text = (
        "FROM a:1 AS one\nFROM one AS Two\nCOPY --from=0 /x /x\nCOPY --from=ONE --chown=1 /y /y\n"
        "FROM b:1\nCOPY --from=two /z /z\nCOPY --from=other:1 /o /o\n"
        "FROM scratch\nCOPY --from=2 / /\nCOPY --from=two / /\n"
    )
    one, two, third = builds(text)
    assert one.text.splitlines()[1:] == ["FROM a:1"]
    assert two.text.splitlines()[1:] == [
        "FROM stage:0",
        "COPY --from=stage:0 /x /x",
        "COPY --from=stage:0 --chown=1 /y /y",
    ]
    assert third.text.splitlines()[1:] == ["FROM b:1", "COPY --from=stage:1 /z /z", "COPY --from=other:1 /o /o"]
    assert [(made.base, made.is_read) for made in (one, two, third)] == [("a:1", False), ("", True), ("b:1", True)]


def test_what_the_target_does_not_need_is_left_out():
    text = "FROM a:1 AS one\nFROM b:1 AS two\nFROM one AS three\nFROM two\n"
    assert [made.name for made in builds(text)] == ["two"]
    assert [made.name for made in builds(text, target="three")] == ["one"]
    assert [made.is_base for made in builds(text)] == [True]
    assert builds("FROM a:1\nRUN x\n") == []


def test_arguments_get_the_values_that_the_whole_file_gives_them():
    text = (
        "ARG V=7\nARG B=a\nFROM $B:1 AS one\nARG V\nARG OWN=1\nARG GIVEN=2\nARG TARGETARCH\nARG NONE\n"
        "FROM scratch\nCOPY --from=one / /\n"
    )
    (made,) = builds(text, build_args={"GIVEN": "3", "OTHER": "4", "http_proxy": "http://p"})
    assert made.base == "a:1"
    assert made.build_args["V"] == "7"
    assert made.build_args["GIVEN"] == "3"
    assert made.build_args["TARGETARCH"]
    assert made.build_args["HTTP_PROXY"] == made.build_args["http_proxy"] == "http://p"
    assert not {"OWN", "NONE", "OTHER", "B"} & set(made.build_args)


def test_a_stage_sees_the_arguments_of_those_that_it_stands_on():
    text = (
        "FROM a:1 AS one\nARG V=1\nFROM one AS two\nARG W\nFROM two AS three\nRUN echo $V\n"
        "FROM scratch\nCOPY --from=three / /\n"
    )
    _, two, three = builds(text, build_args={"V": "2", "W": "3"})
    assert two.text.splitlines()[1:] == ["FROM stage:0", "ARG V=1", "ARG W"]
    assert three.text.splitlines()[1:] == ["FROM stage:1", "ARG V=1", "ARG W", "RUN echo $V"]
    assert three.build_args == {"V": "2", "W": "3"}


def test_the_escape_character_of_the_file_stays():
    (made,) = builds("# escape=`\nFROM a:1 AS one\nCOPY a `\n b\\\nFROM scratch\nCOPY --from=one / /\n")
    assert made.text.splitlines()[0] == "# escape=`"
    assert made.context


def test_images_stand_for_named_contexts_and_nothing_else_can():
    text = "FROM base AS one\nCOPY --from=tool /t /t\nFROM scratch\nCOPY --from=one / /\n"
    (made,) = builds(text, contexts={"base": "docker-image://x:1", "tool": "docker-image://y:2"})
    assert made.text.splitlines()[1:] == ["FROM x:1", "COPY --from=y:2 /t /t"]
    with pytest.raises(BuildError, match='the build context "tool" is no image') as error:
        builds(text, contexts={"tool": "./folder"})
    assert error.value.location.start == 2


def test_a_context_that_stands_for_a_stage_is_not_built():
    text = "FROM a:1 AS one\nRUN x\nFROM one AS two\nFROM scratch\nCOPY --from=two / /\n"
    (made,) = builds(text, contexts={"one": "docker-image://x:1"})
    assert made.text.splitlines()[1:] == ["FROM x:1"]


@pytest.mark.parametrize(
    "line",
    [
        "RUN <<E\nx\nE",
        "RUN --mount=type=tmpfs,target=/x y",
        "RUN --network=none x",
        "COPY --chmod=1 a b",
        "COPY --link a b",
        "COPY --exclude=x a b",
        "COPY --parents a b",
        "COPY <<E /x\ny\nE",
        f"ADD --checksum=sha256:{'0' * 64} http://a/b /c",
    ],
)
def test_what_came_with_buildkit_is_refused_with_its_place(line):
    with pytest.raises(BuildError, match="classic builder does not know") as error:
        builds(f"FROM a:1 AS one\n{line}\nFROM scratch\nCOPY --from=one / /\n")
    assert error.value.location.start == 2


def test_buildkit_gets_heredocs_and_mounts_as_they_are_but_for_the_stages_names():
    text = (
        "# syntax=x/y:1\nFROM a:1 AS one\nFROM a:1 AS two\n"
        "RUN --mount=type=cache,target=/c --mount=from=one,target=/o \\\n"
        "  --mount=target=/t,from=other <<E\n--mount=from=one\nE\n"
        "COPY --link \\\n  --from=one /x /x\nFROM scratch\nCOPY --from=two / /\n"
    )
    one, two = builds(text, buildkit=True)
    assert one.text == "# syntax=x/y:1\n# escape=\\\nFROM a:1\n"
    assert two.text == (
        "# syntax=x/y:1\n# escape=\\\nFROM a:1\n"
        "RUN --mount=type=cache,target=/c --mount=from=stage:0,target=/o \\\n  --mount=target=/t,from=other <<E\n"
        "--mount=from=one\nE\nCOPY --link \\\n  --from=stage:0 /x /x\n"
    )
