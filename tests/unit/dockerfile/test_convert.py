"""Nodes to instructions: what each says, and what BuildKit refuses before anything is planned."""

import pytest

from firekiln.dockerfile import instructions as df
from firekiln.dockerfile.convert import parse_dockerfile, parse_trigger
from firekiln.errors import DockerfileError, Location

HERE = Location(file="Dockerfile", start=1, end=1)


def instruction(text):
    """The one instruction of a stage."""
    (only,) = parse_dockerfile(f"FROM a\n{text}").stages[0].instructions
    return only


def refused(text):
    with pytest.raises(DockerfileError) as caught:
        parse_dockerfile(text)
    return caught.value


# --- the file -------------------------------------------------------------------------------------------------------


def test_instructions_are_sorted_into_stages_and_leading_arguments_stand_apart():
    file = parse_dockerfile(
        "# syntax=x\n# check=skip=all\nARG V=1\nFROM a AS One\nRUN b\nfrom --platform=linux/arm64 one\n", file="D"
    )
    assert (file.file, file.syntax, file.check) == ("D", "x", "skip=all")
    assert [arg.args[0].key for arg in file.global_args] == ["V"]
    first, second = file.stages
    assert (first.name, first.base.alias, first.base.image) == ("one", "One", "a")
    assert (second.index, second.name, second.base.alias, second.base.platform) == (1, "", None, "linux/arm64")
    assert [item.name for item in first.instructions] == ["RUN"]
    assert second.location == Location(file="D", start=6, end=6)


def test_an_instruction_keeps_its_place_its_text_and_its_comments():
    made = parse_dockerfile("FROM a\n# why\nRUN b \\\n c\n").stages[0].instructions[0]
    assert made.location == Location(file="Dockerfile", start=3, end=4)
    assert (made.original, made.comments) == ("RUN b  c", ("why",))


def test_descriptions_of_stages_and_arguments_come_from_their_comments():
    file = parse_dockerfile("# v the version\nARG v=1\n# other\n# web the server\nFROM a AS web\n")
    assert file.global_args[0].args[0].comment == "the version"
    assert file.stages[0].comment == "the server"


@pytest.mark.parametrize(
    ("text", "line", "reason"),
    [
        ("ARG a\nRUN b\nFROM c\n", 2, "no build stage in current context"),
        ("FROM a\nRUNN b\n", 2, "unknown instruction: RUNN (did you mean RUN?)"),
        ("FROM a\n\nworkdirr b\n", 3, "unknown instruction: workdirr (did you mean workdir?)"),
        ("FROM a\nFLY\n", 2, "unknown instruction: FLY"),
        ("FROM a b\n", 1, "FROM requires either one or three arguments"),
        ("FROM a OF b\n", 1, "FROM requires either one or three arguments"),
        ("FROM\n", 1, "FROM requires either one or three arguments"),
        ("FROM a AS 1b\n", 1, "invalid name for build stage"),
        ("FROM --os=x a\n", 1, "unknown flag: --os"),
        ("FROM a\nRUN --mout=x y", 2, "unknown flag: --mout (did you mean mount?)"),
        ("FROM a\nRUN --network y", 2, "missing a value on flag: --network"),
        ("FROM a\nRUN --network=hosts y", 2, 'invalid network mode "hosts" (did you mean host?)'),
        ("FROM a\nRUN --security=x y", 2, 'security "x" is not valid'),
        ("FROM a\nRUN --network=none --network=none y", 2, "duplicate flag specified: --network"),
        ("FROM a\nRUN --mount=from=$b,target=/x y", 2, "'from' doesn't support variable expansion"),
        ('FROM a\nRUN --mount=a"b y', 2, None),
        ("FROM a\nRUN --mount='a\"b' y", 2, "failed to parse csv mounts"),
        ("FROM a\nRUN --device=a,b y", 2, "invalid field 'b' must be a key=value pair"),
        ("FROM a\nCMD --x y", 2, "unknown flag: --x"),
        ("FROM a\nCOPY x", 2, "COPY requires at least two arguments, but only one was provided"),
        ("FROM a\nADD", 2, "ADD requires at least two arguments"),
        ("FROM a\nCOPY --link=maybe x y", 2, "expecting boolean value for flag --link, not: maybe"),
        ("FROM a\nCOPY --link= x y", 2, "missing a value on flag: --link"),
        ("FROM a\nCOPY --checksum=x x y", 2, "unknown flag: --checksum"),
        ("FROM a\nCOPY x <<E\nE", 2, "COPY cannot accept a heredoc as a destination"),
        ("FROM a\nENV", 2, "ENV requires at least one argument"),
        ("FROM a\nENV =b", 2, "ENV names can not be blank"),
        ("FROM a\nLABEL --x a=b", 2, "unknown flag: --x"),
        ("FROM a\nARG", 2, "ARG requires at least one argument"),
        ("FROM a\nARG =b", 2, "ARG names can not be blank"),
        ("FROM a\nUSER", 2, "USER requires exactly one argument"),
        ("FROM a\nWORKDIR", 2, "WORKDIR requires exactly one argument"),
        ("FROM a\nSTOPSIGNAL", 2, "STOPSIGNAL requires exactly one argument"),
        ("FROM a\nMAINTAINER", 2, "MAINTAINER requires exactly one argument"),
        ("FROM a\nEXPOSE", 2, "EXPOSE requires at least one argument"),
        ("FROM a\nVOLUME", 2, "VOLUME requires at least one argument"),
        ('FROM a\nVOLUME ["/a", " "]', 2, "VOLUME specified can not be an empty string"),
        ("FROM a\nSHELL bash -c", 2, "SHELL requires the arguments to be in JSON form"),
        ("FROM a\nSHELL []", 2, "SHELL requires at least one argument"),
        ("FROM a\nHEALTHCHECK", 2, "HEALTHCHECK requires at least one argument"),
        ("FROM a\nHEALTHCHECK NONE x", 2, "HEALTHCHECK NONE takes no arguments"),
        ("FROM a\nHEALTHCHECK CMD", 2, "missing command after HEALTHCHECK CMD"),
        ("FROM a\nHEALTHCHECK RUN x", 2, 'unknown type "RUN" in HEALTHCHECK'),
        ("FROM a\nHEALTHCHECK --timeout=1 CMD x", 2, 'invalid duration "1"'),
        ("FROM a\nHEALTHCHECK --timeout=1us CMD x", 2, 'interval "timeout" cannot be less than 1ms'),
        ("FROM a\nHEALTHCHECK --retries=x CMD x", 2, 'invalid number "x" for --retries'),
        ("FROM a\nHEALTHCHECK --retries=-1 CMD x", 2, "--retries cannot be negative (-1)"),
        ("FROM a\nONBUILD", 2, "ONBUILD requires at least one argument"),
        ("FROM a\nONBUILD ONBUILD RUN x", 2, "Chaining ONBUILD"),
        ("FROM a\nONBUILD from x", 2, "FROM isn't allowed as an ONBUILD trigger"),
        ("FROM a\nONBUILD MAINTAINER x", 2, "MAINTAINER isn't allowed as an ONBUILD trigger"),
    ],
)
def test_a_malformed_instruction_is_refused_on_its_line(text, line, reason):
    if reason is None:  # the flag's quote swallows the rest: a RUN without a command, which BuildKit takes
        assert parse_dockerfile(text).stages
        return
    error = refused(text)
    assert (error.location.start, error.message[: len(reason)]) == (line, reason)
    assert error.source == text


def test_a_file_of_arguments_alone_has_nothing_to_build():
    assert "no stage to build" in refused("ARG a\n").message


# --- commands -------------------------------------------------------------------------------------------------------


def test_run_has_a_shell_form_and_an_exec_form():
    assert instruction("RUN a  b && c").command == df.CommandLine(args=("a  b && c",), shell=True)
    assert instruction('RUN ["a", "b c"]').command == df.CommandLine(args=("a", "b c"), shell=False)


def test_flags_of_run_are_kept_as_written_in_order():
    made = instruction("RUN --mount=type=cache,target=$X --mount=type=tmpfs,target=/t --network=none --device=v/c=n x")
    assert made.mounts == ("type=cache,target=$X", "type=tmpfs,target=/t")
    assert (made.network, made.security, made.devices) == ("none", "sandbox", ("v/c=n",))


def test_an_empty_exec_form_is_not_the_same_as_no_command():
    assert instruction("CMD []").command == df.CommandLine(args=(), shell=False)
    assert instruction("CMD").command == df.CommandLine(args=(), shell=True)
    assert instruction('ENTRYPOINT ["x"]').command == df.CommandLine(args=("x",), shell=False)


def test_heredocs_of_run_stay_with_its_command():
    made = instruction("RUN <<A cat && cat <<-'B'\n1\nA\n\t2\nB\n")
    assert [(file.name, file.data) for file in made.command.files] == [("A", "1\n"), ("B", "2\n")]


# --- COPY and ADD ---------------------------------------------------------------------------------------------------


def test_copy_has_its_flags():
    made = instruction(
        "COPY --from=b --chown=1:2 --chmod=u=rwX --link --parents --exclude=*.md --exclude=!a.md a b /d/"
    )
    assert made == df.Copy(
        location=made.location,
        original=made.original,
        sources=df.Sources(paths=("a", "b"), dest="/d/"),
        source="b",
        chown="1:2",
        chmod="u=rwX",
        link=True,
        parents=True,
        exclude=("*.md", "!a.md"),
    )


def test_add_tells_a_flag_not_given_from_a_false_one():
    assert instruction("ADD a b").unpack is None
    made = instruction("ADD --unpack=false --keep-git-dir --checksum=sha256:0 a b")
    assert (made.unpack, made.keep_git_dir, made.checksum) == (False, True, "sha256:0")


def test_heredocs_of_copy_become_files_chomped_beside_the_paths():
    made = instruction("COPY a <<E <<-'Q' /d/\n$x\nE\n\t$y\n\tQ\n")
    assert made.sources == df.Sources(
        paths=("a",),
        dest="/d/",
        contents=(
            df.SourceContent(path="E", data="$x\n", expand=True),
            df.SourceContent(path="Q", data="$y\n", expand=False),
        ),
    )


def test_a_word_like_a_heredoc_in_json_is_an_empty_file():
    made = instruction('COPY ["<<E", "/f"]')
    assert made.sources.contents == (df.SourceContent(path="E", data="", expand=True),)


# --- metadata -------------------------------------------------------------------------------------------------------


def test_env_and_label_keep_words_unexpanded_and_know_the_old_form():
    assert instruction("ENV a=$b c='d e'").env == (
        df.KeyValue(key="a", value="$b"),
        df.KeyValue(key="c", value="'d e'"),
    )
    assert instruction("LABEL a b c").labels == (df.KeyValue(key="a", value="b c", no_delim=True),)


def test_an_argument_without_a_default_differs_from_one_with_an_empty_default():
    assert instruction("ARG a b=").args == (df.ArgDefault(key="a"), df.ArgDefault(key="b", value=""))


def test_expose_and_volume_hold_all_their_words():
    assert instruction("EXPOSE 80/tcp 443 53/udp").ports == ("443", "53/udp", "80/tcp")
    assert instruction('VOLUME ["/a b", "/c"]').paths == ("/a b", "/c")
    assert instruction("VOLUME /a /c").paths == ("/a", "/c")


def test_a_health_check_counts_in_nanoseconds():
    made = instruction("HEALTHCHECK --interval=1m30s --timeout=1.5s --start-period=2ms --retries=3 CMD a b")
    assert (made.test, made.interval, made.timeout) == (("CMD-SHELL", "a b"), 90 * 10**9, 1_500_000_000)
    assert (made.start_period, made.start_interval, made.retries) == (2 * 10**6, 0, 3)
    assert instruction('HEALTHCHECK CMD ["a", "b"]').test == ("CMD", "a", "b")
    assert instruction("HEALTHCHECK none").test == ("NONE",)


@pytest.mark.parametrize(
    ("text", "field", "value"),
    [
        ("USER a:b", "user", "a:b"),
        ("WORKDIR /a b", "path", "/a b"),
        ("STOPSIGNAL SIGINT", "signal", "SIGINT"),
        ('SHELL ["a", "-c"]', "shell", ("a", "-c")),
        ("MAINTAINER a b", "maintainer", "a b"),
    ],
)
def test_the_plain_instructions_hold_their_argument(text, field, value):
    assert getattr(instruction(text), field) == value


# --- ONBUILD --------------------------------------------------------------------------------------------------------


def test_a_trigger_is_kept_as_text_with_its_heredocs_and_read_back():
    made = instruction("ONBUILD  RUN --network=none <<E cat\na\nE\n")
    assert made.expression == "RUN --network=none <<E cat\na\n\nE" or made.expression.endswith("\na\nE")
    back = parse_trigger(made.expression, HERE)
    assert (back.network, back.command.args, back.location) == ("none", ("<<E cat",), HERE)
    assert back.command.files[0].data == "a\n"


@pytest.mark.parametrize("text", ["FROM a", "ONBUILD RUN x", "RUN a\nRUN b", "", "FLY", "MAINTAINER x", "ENV"])
def test_a_foreign_images_bad_trigger_is_refused_where_it_is_taken(text):
    with pytest.raises(DockerfileError) as caught:
        parse_trigger(text, HERE)
    assert caught.value.location == HERE


@pytest.mark.parametrize(
    ("text", "span"),
    [
        ("FROM a\nRUN --mout=x y", "--mout"),
        ("FROM a\nRUNN y", "RUNN"),
        ("FROM a AS 1b", "1b"),
        ("FROM a\nENV a=b c", "c"),
        ("FROM a\nRUN --network=nett y", "nett"),
        ("FROM a\nRUN --mount=from=$b y", "from=$b"),
        ("FROM a\nHEALTHCHECK RUN x", "RUN"),
        ("FROM a\nUSER", None),
    ],
)
def test_an_error_says_which_word_is_to_blame_where_it_is_one(text, span):
    assert refused(text).span == span
