"""Whatever the Dockerfile and the arguments: there is a plan, or one FirekilnError with a place that can be shown."""

import json

from hypothesis import given, settings
from hypothesis import strategies as st

from firekiln.build.check import check, load, plan_definition
from firekiln.build.plan import PlanOptions, plan_to_json
from firekiln.build.plan.outline import outline
from firekiln.dockerfile.excerpt import excerpt
from firekiln.dockerfile.text import printable
from firekiln.errors import DockerfileError, FirekilnError
from firekiln.oci.config import Image, ImageConfig
from firekiln.oci.platform import Platform

AMD64 = Platform.parse("linux/amd64")

WORDS = st.sampled_from(
    [
        *"a b c 0 1 / . ../x /w/ x:y 7:8 * a[b] $A ${B} ${A:-$B} ${A:?no} ${A//a/$A} ${A#*} a=b A=1 B=$A".split(),
        *"--from=a --from=0 --from=$A --chown=x:y --chmod=7 --chmod=u+x --link --parents --exclude=*".split(),
        *"--mount=type=bind,from=a --mount=type=cache,target=/c --mount=type=secret,id=k --mount=type=ssh".split(),
        *"--mount=x --network=none --security=insecure --device=d --checksum=sha256:0 --keep-git-dir --unpack".split(),
        *"https://h/x.git#a:b https://h/f git@h:x.git 80 1-3/udp 9/x SIGTERM \\ ' \" \udcff é <<E CMD NONE".split(),
        '["a"]',
    ]
)
KEYWORDS = st.sampled_from(
    (
        "ARG ENV LABEL RUN COPY ADD WORKDIR USER EXPOSE VOLUME CMD ENTRYPOINT SHELL STOPSIGNAL HEALTHCHECK "
        "ONBUILD MAINTAINER"
    ).split()
)
LINES = st.tuples(KEYWORDS, st.lists(WORDS, min_size=1, max_size=4)).map(
    lambda line: f"{line[0]} {' '.join(line[1])}\n"
)
STAGES = st.tuples(
    st.sampled_from(["FROM b AS a\n", "FROM a AS c\n", "FROM $A\n", "FROM scratch\n"]), st.lists(LINES, max_size=3)
)
TEXTS = st.tuples(
    st.sampled_from(["", "ARG A=1\n", "ARG A=b\nARG B=$A\n", "# escape=`\n", "# check=error=true\n"]),
    st.lists(STAGES, min_size=1, max_size=3).map(lambda stages: "".join(f + "".join(ls) for f, ls in stages)),
).map("".join)
OPTIONS = st.builds(
    lambda args, target: PlanOptions(build_args=args, target=target, build_platform=AMD64),
    st.dictionaries(
        st.sampled_from(["A", "B", "SOURCE_DATE_EPOCH", "TARGETPLATFORM", "HTTP_PROXY"]), st.text(max_size=5)
    ),
    st.sampled_from(["", "", "", "", "", "a", "0", "z", "-1", "²"]),
)


def image(_reference, platform):
    config = ImageConfig(on_build=("RUN x $A",), env=("A=1", "bad"), working_dir="rel")
    return Image(platform=platform, config=config, diff_ids=("sha256:" + "0" * 64,))


def shows(text, error):
    if isinstance(error, DockerfileError) and error.location is not None:
        assert 1 <= error.location.start <= text.count("\n") + 1
        assert excerpt(text, error.location, span=error.span)


@settings(max_examples=200, deadline=None)
@given(TEXTS, OPTIONS)
def test_any_dockerfile_is_planned_or_refused(text, options):
    try:
        made = plan_definition(load(text), options, image)
    except FirekilnError as error:
        shows(text, error)
        return
    json.dumps(plan_to_json(made))
    for warning in made.warnings:
        assert excerpt(text, warning.location, span=warning.span)
        printable(warning.message).encode()
    assert all(source is None or source in made.vertices for vertex in made.vertices for source in vertex.inputs)


@settings(max_examples=50, deadline=None)
@given(TEXTS, OPTIONS)
def test_any_dockerfile_is_checked_and_outlined_or_refused(text, options):
    try:
        check(text, options, image)
        outline(load(text).dockerfile, options, image)
    except FirekilnError:
        return
