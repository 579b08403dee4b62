"""Build checks of whole files: those of the text and those of the plan, and what `# check=` makes of them."""

import pytest

from firekiln.build.check import any_image, check, load, plan_definition
from firekiln.build.plan import PlanOptions
from firekiln.errors import DockerfileError, UsageError
from firekiln.oci.config import Image, ImageConfig
from firekiln.oci.platform import Platform

AMD64 = Platform.parse("linux/amd64")


def checked(text, *, bases=any_image, **options):
    return check(text, PlanOptions(build_platform=AMD64, **options), bases)


def found(text, **options):
    """The rules that speak, with their lines."""
    result = checked(text, **options)
    assert result.error is None
    return [(w.rule.name, w.location.start) for w in result.warnings]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("FROM a\nCMD b", [("JSONArgsRecommended", 2)]),
        ('FROM a\nENTRYPOINT ["b"]', []),
        ('FROM a\nSHELL ["x"]\nCMD b', []),
        ('FROM a AS x\nSHELL ["x"]\nFROM x\nENTRYPOINT b', []),
        ('FROM a\nCMD ["b"]\nCMD ["c"]', [("MultipleInstructionsDisallowed", 2)]),
        ('FROM a\nCMD ["b"]\nFROM a\nCMD ["c"]', []),
        ("FROM a\nHEALTHCHECK NONE\nHEALTHCHECK NONE", [("MultipleInstructionsDisallowed", 2)]),
        ("FROM a\nENV b c\nLABEL d e\nENV f=g", [("LegacyKeyValueFormat", 2), ("LegacyKeyValueFormat", 3)]),
        (
            "FROM a\nENV DB_PASSWORD=x\nARG token\nARG TOKEN_FILE",
            [("SecretsUsedInArgOrEnv", 2), ("SecretsUsedInArgOrEnv", 3)],
        ),
        ("FROM a\nENV PUBLIC_KEY=x KEYBOARD=us MONKEY=1", []),
        ("FROM a\nWORKDIR b\nWORKDIR c", [("WorkdirRelativePath", 2)]),
        ("FROM a\nWORKDIR /b\nWORKDIR c", []),
        ("FROM a AS x\nWORKDIR /b\nFROM x\nWORKDIR c", []),
        ("FROM a\nWORKDIR $b/c", [("UndefinedVar", 2)]),
        ("FROM a\nEXPOSE 80/TCP 81/${P}", [("ExposeProtoCasing", 2), ("UndefinedVar", 2)]),
        ("FROM a\nEXPOSE 127.0.0.1:80:80", [("ExposeInvalidFormat", 2)]),
        ("FROM --platform=$TARGETPLATFORM a", [("RedundantTargetPlatform", 1)]),
        ("FROM --platform=linux/amd64 a", [("FromPlatformFlagConstDisallowed", 1)]),
        ("FROM --platform=linux/amd64 a AS build_amd64", []),
        ("FROM --platform=$BUILDPLATFORM a", []),
        ("FROM b\nENV D=/x\nWORKDIR $D\nWORKDIR y", []),
        ("FROM b\nENV D=x\nWORKDIR $D", [("WorkdirRelativePath", 3)]),
        ("FROM b\nARG P=80/TCP\nEXPOSE $P", [("ExposeProtoCasing", 3)]),
        ("FROM b${TAG}x", [("UndefinedArgInFrom", 1)]),
        ("ARG TAG\nFROM b:$TAG", [("InvalidDefaultArgInFrom", 2)]),
        ("FROM b\nENV A=$B C=${D:-e}", [("UndefinedVar", 2)]),
        ("FROM b AS x\nONBUILD CMD y\nFROM x", [("JSONArgsRecommended", 3)]),
        ('FROM b\nENV a b\nSHELL ["s"]\nCMD x', [("LegacyKeyValueFormat", 2)]),
    ],
)
def test_a_check_speaks_where_buildkits_does(text, expected):
    assert found(text, build_args={"TAG": "1"}) == expected


def test_warnings_come_in_the_order_of_their_lines_whoever_found_them():
    text = "FROM b AS Web\nCMD x\nMAINTAINER y\nENV token=z\n"
    assert found(text) == [
        ("StageNameCasing", 1),
        ("JSONArgsRecommended", 2),
        ("MaintainerDeprecated", 3),
        ("SecretsUsedInArgOrEnv", 4),
    ]


def test_all_stages_are_checked_unless_a_target_is_named():
    text = "FROM b AS one\nCMD x\nFROM b AS two\nENTRYPOINT y\nFROM b\n"
    assert found(text) == [("JSONArgsRecommended", 2), ("JSONArgsRecommended", 4)]
    assert found(text, target="two") == [("JSONArgsRecommended", 4)]


def test_a_build_warns_only_of_stages_that_it_needs_but_of_the_whole_text():
    definition = load("FROM b AS One\nCMD x\nFROM b\n")
    made = plan_definition(definition, PlanOptions(build_platform=AMD64), any_image)
    assert [w.rule.name for w in made.warnings] == ["StageNameCasing"]


def test_the_shell_of_a_base_image_counts():
    def bases(_reference, platform):
        return Image(platform=platform, config=ImageConfig(shell=("/bin/bash", "-c")), diff_ids=("sha256:" + "1" * 64,))

    assert found("FROM b\nCMD x") == [("JSONArgsRecommended", 2)]
    assert found("FROM b\nCMD x", bases=bases) == []


def test_the_check_directive_says_which_checks_speak():
    text = "FROM b AS Web\nCMD x\n"
    assert found("# check=skip=StageNameCasing\n" + text) == [("JSONArgsRecommended", 3)]
    assert found("# check=skip=all\n" + text) == []
    assert found("#!/x\n# check=skip=all\n" + text) == []


def test_the_build_argument_stands_in_the_directives_place():
    text = "# check=skip=all\nFROM b\nCMD x\n"
    assert found(text, build_args={"BUILDKIT_DOCKERFILE_CHECK": "skip=none"}) == [("JSONArgsRecommended", 3)]
    assert found("# check=nonsense\nFROM b", build_args={"BUILDKIT_DOCKERFILE_CHECK": ""}) == []
    with pytest.raises(UsageError, match="BUILDKIT_DOCKERFILE_CHECK=nonsense: invalid check option"):
        checked(text, build_args={"BUILDKIT_DOCKERFILE_CHECK": "nonsense"})


def test_a_malformed_directive_is_an_error_on_its_line():
    error = checked("# syntax=x\n# check=skp=all\nFROM b\n").error
    assert error.message == 'failed to parse check options: invalid check option "skp"'
    assert (error.location.start, error.span) == (2, "skp=all")


def test_a_check_that_speaks_fails_the_build_if_the_directive_says_so():
    text = "# check=error=true\nFROM b\nCMD x\n"
    assert found(text) == [("JSONArgsRecommended", 3)]
    with pytest.raises(DockerfileError, match="lint violation found for rules: JSONArgsRecommended") as caught:
        plan_definition(load(text), PlanOptions(build_platform=AMD64), any_image)
    assert caught.value.location.start == 3
    quiet = text.replace("true", "true;skip=JSONArgsRecommended")
    assert plan_definition(load(quiet), PlanOptions(build_platform=AMD64), any_image).warnings == ()


def test_a_refused_file_gives_its_error_and_what_its_text_tells():
    result = checked("FROM b AS Web\nENV A=${\n")
    assert [w.rule.name for w in result.warnings] == ["StageNameCasing"]
    assert result.error.location.start == 2


def test_every_warning_of_a_word_names_it_for_a_caret():
    text = "FROM b AS Web\nENV A=$PAHT\nEXPOSE 80/TCP\nWORKDIR r\nARG my_token\n"
    assert [(w.rule.name, w.span) for w in checked(text).warnings] == [
        ("StageNameCasing", "Web"),
        ("UndefinedVar", "$PAHT"),
        ("ExposeProtoCasing", "80/TCP"),
        ("WorkdirRelativePath", "r"),
        ("SecretsUsedInArgOrEnv", "my_token"),
    ]


@pytest.mark.parametrize(
    ("directive", "shown"),
    [("", ["CopyIgnoredFile"]), ("# check=skip=CopyIgnoredFile\n", []), ("# check=skip=all\n", [])],
)
def test_who_asks_for_checks_hears_of_ignored_files_without_the_experimental_directive(directive, shown):
    options = PlanOptions(ignored=lambda path: path == "left")
    found = check(f"{directive}FROM scratch\nCOPY left /\n", options)
    assert [warning.rule.name for warning in found.warnings] == shown
