"""What a Dockerfile says, in the machine that it becomes: built by RUN and COPY, booted, and asked."""

import os
import shutil

import pytest

import firekiln as package
from firekiln.machine.options import RunOptions
from firekiln.machine.run import start
from machines import BUSYBOX, output

BASE = """\
FROM scratch AS base
COPY busybox /bin/busybox
RUN ["/bin/busybox", "--install", "-s", "/bin"]
RUN mkdir -p /etc && printf 'root:x:0:0::/root:/bin/sh\\nweb:x:33:34::/www:/bin/sh\\n' > /etc/passwd \\
 && printf 'root:x:0:\\nweb:x:34:\\nlog:x:40:web\\n' > /etc/group
FROM base
"""
WHO = 'id; echo "$HOME"; pwd'

TABLE = {
    "a user by name, with its groups and its home": (
        f"USER web\nCMD {WHO}",
        (),
        "uid=33(web) gid=34(web) groups=34(web),40(log)\n/www\n/\n",
    ),
    "a user by number that nobody has": (f"USER 990:991\nCMD {WHO}", (), "uid=990 gid=991 groups=991\n/\n/\n"),
    "CMD alone": ('CMD ["echo", "from", "CMD"]', (), "from CMD\n"),
    "CMD replaced on the command line": ('CMD ["echo", "from", "CMD"]', ("echo", "from run"), "from run\n"),
    "ENTRYPOINT with CMD": ('ENTRYPOINT ["echo", "entry"]\nCMD ["cmd"]', (), "entry cmd\n"),
    "ENTRYPOINT with arguments": ('ENTRYPOINT ["echo", "entry"]\nCMD ["cmd"]', ("a", "b c"), "entry a b c\n"),
    "the shell form by SHELL": ('SHELL ["/bin/echo", "said:"]\nCMD hello   $HOME', (), "said: hello   $HOME\n"),
    "a WORKDIR that the base lacks": ("WORKDIR /srv/new\nWORKDIR deep er\nCMD pwd; ls -ld .", (), None),
    "ENV with expansion": (
        'ENV A=1 B="two words"\nENV C=${A}-${D:-default}\nCMD ["sh", "-c", "echo \\"$A|$B|$C\\""]',
        (),
        "1|two words|1-default\n",
    ),
    "arguments with spaces, quotes, dollars and newlines": (
        r"""ENTRYPOINT ["printf", "<%s>"]""" + "\n" + r"""CMD ["a b", "'\"", "$HOME `id`", "line\nline", "", "\\"]""",
        (),
        "<a b><'\"><$HOME `id`><line\nline><><\\>",
    ),
}


@pytest.fixture(scope="module")
def context(tmp_path_factory):
    if os.geteuid() != 0:
        pytest.skip("RUN needs root")
    folder = tmp_path_factory.mktemp("context")
    shutil.copy(BUSYBOX, folder / "busybox")
    return folder


@pytest.fixture
def build(store, context):
    """Build a Dockerfile's text on the store; the image's digest."""
    return lambda text: package.build(context, dockerfile=text.encode(), store=store).digest


@pytest.mark.parametrize("what", TABLE)
def test_the_machine_does_what_the_dockerfile_says(build, boot, what):
    body, args, expected = TABLE[what]
    machine = boot(*args, image=build(BASE + body))
    assert machine.wait() == 0, output(machine, "stderr")
    said = output(machine)
    if expected is None:
        assert said.splitlines()[0] == "/srv/new/deep er"
        assert said.splitlines()[1].startswith("drwxr-xr-x")
    else:
        assert said == expected


def test_a_single_static_binary_runs_without_proc_dev_and_passwd(build, boot):
    machine = boot(image=build('FROM scratch\nCOPY busybox /busybox\nENTRYPOINT ["/busybox", "ls", "/"]'))
    assert machine.wait() == 0, output(machine, "stderr")
    assert {"busybox", "dev", "proc", "sys"} <= set(output(machine).split())


def test_sixty_layers_boot_and_the_highest_wins(store, build, boot):
    steps = "\n".join(f"RUN echo {number} > /which; echo {number} > /f{number}" for number in range(60))
    digest = build(BASE + steps + "\nCMD cat /which; ls -d /f* | wc -l")
    assert len(store.images.get(digest).layers) >= 60
    machine = boot(image=digest)
    assert machine.wait() == 0, output(machine, "stderr")
    assert output(machine) == "59\n60\n"


def test_an_image_without_a_command_is_refused_before_anything_boots(store, build):
    digest = build("FROM scratch\nCOPY busybox /app")
    with pytest.raises(package.FirekilnError, match="no command specified"):
        start(store, RunOptions(image=digest))
