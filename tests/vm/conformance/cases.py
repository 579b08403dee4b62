"""What each instruction promises of the machine, one small Dockerfile a form: the table of the conformance suite."""

# ruff: noqa: E501 - a Dockerfile stands in one piece

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

BASE = """\
FROM scratch AS busybox
COPY busybox /bin/busybox
RUN ["/bin/busybox", "--install", "-s", "/bin"]
RUN mkdir -p /etc /root /www && chown 33:34 /www \\
 && printf 'root:x:0:0::/root:/bin/sh\\nweb:x:33:34::/www:/bin/sh\\n' > /etc/passwd \\
 && printf 'root:x:0:\\nweb:x:34:\\nlog:x:40:web\\nops:x:50:\\n' > /etc/group
"""
"""What every text begins with: the stage `busybox`, with the user web (33), its group (34) and log (40)."""


@dataclass(frozen=True, kw_only=True)
class Case:
    """`text` follows `base`. `says` is the standard output of the machine, `status` its exit status.

    `stop`: once it says "ready", it is stopped. `config` are keys of `inspect`'s Config, `health` is what the health
    becomes. `docker` says what Docker does where that is something else, or why it was not asked (`unasked`).
    """

    instruction: str
    form: str
    text: str
    base: str = BASE
    says: str = ""
    status: int = 0
    args: tuple[str, ...] = ()
    stop: bool = False
    config: Mapping[str, Any] = field(default_factory=dict)
    health: str = ""
    docker: str = ""
    unasked: str = ""
    often: bool = False

    @property
    def name(self) -> str:
        return f"{self.instruction} {self.form}"


NEWER = "needs a newer BuildKit than Docker 20.10's"
WHO = 'CMD ["sh", "-c", "id; echo $HOME; pwd"]\n'
TRAP = 'CMD ["sh", "-c", "trap \'echo %s; exit 5\' %s; echo ready; while :; do sleep 0.1; done"]\n'


def _entrypoints() -> list[Case]:
    """The nine combinations of the reference's table "Understand how CMD and ENTRYPOINT interact"."""
    entrypoints = {
        "no ENTRYPOINT": "",
        "ENTRYPOINT": "ENTRYPOINT echo entry\n",
        "[ENTRYPOINT]": 'ENTRYPOINT ["echo", "entry"]\n',
    }
    commands = {"no CMD": "", "[CMD]": 'CMD ["echo", "cmd"]\n', "CMD": "CMD echo cmd\n"}
    says = {
        ("no ENTRYPOINT", "[CMD]"): "cmd\n",
        ("no ENTRYPOINT", "CMD"): "cmd\n",
        ("[ENTRYPOINT]", "no CMD"): "entry\n",
        ("[ENTRYPOINT]", "[CMD]"): "entry echo cmd\n",
        ("[ENTRYPOINT]", "CMD"): "entry /bin/sh -c echo cmd\n",
    }
    made = []
    for entry, first in entrypoints.items():
        for command, second in commands.items():
            if (entry, command) == ("no ENTRYPOINT", "no CMD"):
                continue  # an error before there is a machine
            made.append(
                Case(
                    instruction="ENTRYPOINT",
                    form=f"{entry} with {command}",
                    text=f"FROM busybox\n{first}{second}",
                    says=says.get((entry, command), "entry\n"),
                )
            )
    return made


CASES = (
    Case(
        instruction="FROM",
        form="of a stage, the last one is the image",
        text='FROM busybox AS one\nRUN echo one > /one\nFROM busybox\nCMD ["ls", "/one"]\n',
        status=1,
    ),
    Case(
        instruction="FROM",
        form="of a name in an ARG before it",
        text='ARG WHICH=missing\nFROM busybox AS b-1\nRUN echo found > /f\nFROM b-${NUMBER:-1}\nCMD ["cat", "/f"]\n',
        says="found\n",
    ),
    Case(
        instruction="FROM",
        form="scratch, with one static binary",
        text='FROM scratch\nCOPY busybox /\nCMD ["/busybox", "echo", "alone"]\n',
        says="alone\n",
        often=True,
    ),
    Case(
        instruction="RUN",
        form="in shell form",
        text='FROM busybox\nRUN echo "$((1 + 2))" > /f\nCMD ["cat", "/f"]\n',
        says="3\n",
    ),
    Case(
        instruction="RUN",
        form="in exec form",
        text='FROM busybox\nRUN ["sh", "-c", "echo \\"$0\\" > /f", "a b"]\nCMD ["cat", "/f"]\n',
        says="a b\n",
    ),
    Case(
        instruction="RUN",
        form="with a heredoc",
        text='FROM busybox\nRUN <<END\necho one > /f\necho two >> /f\nEND\nCMD ["cat", "/f"]\n',
        says="one\ntwo\n",
        unasked=NEWER,
    ),
    Case(
        instruction="RUN",
        form="--mount=type=bind, tmpfs and cache leave nothing behind",
        text="FROM busybox\nRUN --mount=type=bind,source=data,target=/data --mount=type=tmpfs,target=/tmp/t --mount=type=cache,target=/var/c "
        'cp /data/a /a && echo x > /tmp/t/x && echo x > /var/c/x\nCMD ["sh", "-c", "cat /a; ls /tmp/t /var/c"]\n',
        says="file a\n/tmp/t:\n\n/var/c:\n",
    ),
    Case(
        instruction="RUN",
        form="as the USER, in the WORKDIR, with ENV and ARG",
        text='FROM busybox\nARG A=arg\nENV E=env\nUSER web\nWORKDIR /www\nRUN echo "$A $E $(id -u) $(pwd)" > f\nCMD ["cat", "f"]\n',
        says="arg env 33 /www\n",
    ),
    Case(
        instruction="CMD",
        form="in exec form, its words untouched",
        text='FROM busybox\nCMD ["printf", "<%s>", "a b", "$HOME", ""]\n',
        says="<a b><$HOME><>",
    ),
    Case(
        instruction="CMD",
        form="in shell form, read by the SHELL",
        text="FROM busybox\nENV A=b\nCMD echo $A   c\n",
        says="b c\n",
    ),
    Case(
        instruction="CMD",
        form="replaced by arguments",
        text='FROM busybox\nCMD ["echo", "cmd"]\n',
        args=("echo", "given"),
        says="given\n",
    ),
    Case(instruction="CMD", form="of a program that is not there", text='FROM busybox\nCMD ["/nowhere"]\n', status=127),
    Case(
        instruction="CMD",
        form="of a file that can't be executed",
        text='FROM busybox\nCMD ["/etc/passwd"]\n',
        status=126,
    ),
    Case(
        instruction="CMD",
        form="whose exit status is kept",
        text='FROM busybox\nCMD ["sh", "-c", "exit 42"]\n',
        status=42,
    ),
    Case(
        instruction="CMD",
        form="that a signal kills",
        text='FROM busybox\nCMD ["sh", "-c", "kill -KILL $$"]\n',
        status=137,
        docker="a container's first process is deaf to its own SIGKILL: 0 (its shell goes on)",
        unasked="see there",
    ),
    *_entrypoints(),
    Case(
        instruction="ENTRYPOINT",
        form="with arguments",
        text='FROM busybox\nENTRYPOINT ["echo", "entry"]\nCMD ["cmd"]\n',
        args=("a", "b c"),
        says="entry a b c\n",
        often=True,
    ),
    Case(
        instruction="ENTRYPOINT",
        form="of a base drops its CMD",
        text='FROM busybox AS a\nCMD ["base"]\nFROM a\nENTRYPOINT ["echo", "entry"]\n',
        says="entry\n",
    ),
    Case(
        instruction="LABEL",
        form="several, with quotes and a base's",
        text='FROM busybox AS a\nLABEL a=1 b=1\nFROM a\nLABEL b="two words" "c d"=\'3\'\n' + WHO,
        says="uid=0(root) gid=0(root) groups=0(root)\n/root\n/\n",
        config={"Labels": {"a": "1", "b": "two words", "c d": "3"}},
    ),
    Case(instruction="MAINTAINER", form="(deprecated)", text='FROM busybox\nMAINTAINER a@b.example\nCMD ["true"]\n'),
    Case(
        instruction="EXPOSE",
        form="a port, a range, a protocol",
        text='FROM busybox\nEXPOSE 80 81-82/tcp 53/udp\nCMD ["true"]\n',
        config={"ExposedPorts": {"80/tcp": {}, "81/tcp": {}, "82/tcp": {}, "53/udp": {}}},
    ),
    Case(
        instruction="ENV",
        form="both forms, with expansion and quotes",
        text='FROM busybox\nENV A=1 B="two words"\nENV OLD form of it\nENV C=${A}-${X:-x}-${A:+y}\nCMD ["sh", "-c", "echo \\"$A|$B|$OLD|$C\\""]\n',
        says="1|two words|form of it|1-x-y\n",
        often=True,
    ),
    Case(
        instruction="ENV",
        form="of one instruction sees those before it only",
        text='FROM busybox\nENV A=hello\nENV A=bye B=$A\nENV C=$A\nCMD ["sh", "-c", "echo $B $C"]\n',
        says="hello bye\n",
    ),
    Case(
        instruction="ENV",
        form="PATH finds the program",
        text='FROM busybox\nRUN mkdir /own && ln -s /bin/busybox /own/echo && rm /bin/echo\nENV PATH=/own:$PATH\nCMD ["echo", "found"]\n',
        says="found\n",
    ),
    Case(
        instruction="ENV",
        form="HOME is the user's unless it is set",
        text='FROM busybox\nUSER web\nENV HOME=/elsewhere\nCMD ["sh", "-c", "echo $HOME"]\n',
        says="/elsewhere\n",
    ),
    Case(
        instruction="ADD",
        form="unpacks an archive of the context",
        text='FROM busybox\nADD archive.tar /out/\nCMD ["cat", "/out/in/archive"]\n',
        says="in the archive\n",
    ),
    Case(
        instruction="ADD",
        form="a file, owner and mode",
        text='FROM busybox\nADD --chown=web:log --chmod=640 data/a /a\nCMD ["stat", "-c", "%u %g %a", "/a"]\n',
        says="33 40 640\n",
    ),
    Case(
        instruction="COPY",
        form="a file, a folder's content, wildcards",
        text='FROM busybox\nCOPY data/a /one\nCOPY data /all\nCOPY data/*.txt /text/\nCMD ["sh", "-c", "cat /one; ls /all /text"]\n',
        says="file a\n/all:\na\nb.txt\nc.txt\n\n/text:\nb.txt\nc.txt\n",
    ),
    Case(
        instruction="COPY",
        form="--from a stage, through a link",
        text='FROM busybox AS s\nRUN mkdir /r && echo deep > /r/f && ln -s r /l\nFROM busybox\nCOPY --from=s /l/f /f\nCMD ["cat", "/f"]\n',
        says="deep\n",
    ),
    Case(
        instruction="COPY",
        form="--chown by name, --chmod",
        text='FROM busybox\nCOPY --chown=web --chmod=0600 data/a /a\nCMD ["stat", "-c", "%u %g %a", "/a"]\n',
        says="33 34 600\n",
    ),
    Case(
        instruction="COPY",
        form="--link over a link of the base",
        text='FROM busybox\nRUN ln -s real /l && mkdir /real\nCOPY --link data/a /l/a\nCMD ["sh", "-c", "ls -d /l/a && test ! -e /real/a && echo apart"]\n',
        says="/l/a\napart\n",
        unasked=NEWER,
    ),
    Case(
        instruction="COPY",
        form="--parents and --exclude",
        text='FROM busybox\nCOPY --parents data/a /p/\nCOPY --exclude=*.txt data /e/\nCMD ["sh", "-c", "ls /p/data /e"]\n',
        says="/e:\na\n\n/p/data:\na\n",
        unasked=NEWER,
    ),
    Case(
        instruction="COPY",
        form="a heredoc",
        text='FROM busybox\nENV WHO=me\nCOPY <<END /f\nhello $WHO\nEND\nCMD ["cat", "/f"]\n',
        says="hello me\n",
        unasked=NEWER,
    ),
    Case(
        instruction="COPY",
        form="set-user-id and times survive",
        text='FROM busybox AS s\nRUN cp /bin/busybox /s && chmod 4755 /s && touch -d "2001-02-03 04:05:06" /s\nFROM busybox\nCOPY --from=s /s /s\nCMD ["stat", "-c", "%a %Y", "/s"]\n',
        says="4755 981173106\n",
    ),
    Case(
        instruction="VOLUME",
        form="keeps what lies there, its owner too",
        text='FROM busybox\nRUN mkdir /v && echo kept > /v/f && chown -R web /v\nVOLUME /v\nUSER web\nCMD ["sh", "-c", "cat /v/f && echo more > /v/g && cat /v/g && stat -c %u /v"]\n',
        says="kept\nmore\n33\n",
        config={"Volumes": {"/v": {}}},
    ),
    Case(
        instruction="USER",
        form="by name: groups and HOME",
        text="FROM busybox\nUSER web\n" + WHO,
        says="uid=33(web) gid=34(web) groups=34(web),40(log)\n/www\n/\n",
        often=True,
    ),
    Case(
        instruction="USER",
        form="by number that nobody has",
        text="FROM busybox\nUSER 990\n" + WHO,
        says="uid=990 gid=0(root) groups=0(root)\n/\n/\n",
    ),
    Case(
        instruction="USER",
        form="by number of a known user",
        text="FROM busybox\nUSER 33\n" + WHO,
        says="uid=33(web) gid=34(web) groups=34(web),40(log)\n/www\n/\n",
    ),
    Case(
        instruction="USER",
        form="user:group",
        text="FROM busybox\nUSER web:ops\n" + WHO,
        says="uid=33(web) gid=50(ops) groups=50(ops)\n/www\n/\n",
    ),
    Case(
        instruction="USER",
        form="uid:gid",
        text="FROM busybox\nUSER 990:991\n" + WHO,
        says="uid=990 gid=991 groups=991\n/\n/\n",
    ),
    Case(
        instruction="USER",
        form="that is not there",
        text="FROM busybox\nUSER nobody-at-all\n" + WHO,
        status=125,
        docker="status 125 or 126, by version",
        unasked="see there",
    ),
    Case(
        instruction="WORKDIR",
        form="is made where it is absent, relative ones add up",
        text='FROM busybox\nWORKDIR /a\nWORKDIR b\nENV D=c\nWORKDIR $D\nCMD ["pwd"]\n',
        says="/a/b/c\n",
    ),
    Case(
        instruction="WORKDIR",
        form="that is made belongs to the USER",
        text='FROM busybox\nUSER web\nWORKDIR /made\nCMD ["stat", "-c", "%u %a", "."]\n',
        says="33 755\n",
        unasked="Docker 20.10 made it root's still",
    ),
    Case(
        instruction="ARG",
        form="is seen by RUN, and gone in the machine",
        text='FROM busybox\nARG A=1\nRUN echo "$A" > /f\nCMD ["sh", "-c", "cat /f; echo \\"<$A>\\""]\n',
        says="1\n<>\n",
    ),
    Case(
        instruction="ARG",
        form="before FROM, taken into a stage",
        text='ARG V=outer\nFROM busybox\nARG V\nRUN echo "$V" > /f\nCMD ["cat", "/f"]\n',
        says="outer\n",
    ),
    Case(
        instruction="ONBUILD",
        form="runs in the image on top",
        text='FROM busybox AS parent\nONBUILD RUN echo trigger > /f\nONBUILD COPY data/a /a\nFROM parent\nCMD ["cat", "/f", "/a"]\n',
        says="trigger\nfile a\n",
    ),
    Case(
        instruction="STOPSIGNAL",
        form="by name",
        text="FROM busybox\nSTOPSIGNAL SIGUSR1\n" + TRAP % ("usr1", "USR1"),
        says="ready\nusr1\n",
        status=5,
        stop=True,
        often=True,
    ),
    Case(
        instruction="STOPSIGNAL",
        form="by number",
        text="FROM busybox\nSTOPSIGNAL 12\n" + TRAP % ("usr2", "USR2"),
        says="ready\nusr2\n",
        status=5,
        stop=True,
    ),
    Case(
        instruction="STOPSIGNAL",
        form="by RTMIN",
        text="FROM busybox\nSTOPSIGNAL SIGRTMIN+3\n" + TRAP % ("rtmin", "37"),
        says="ready\nrtmin\n",
        status=5,
        stop=True,
    ),
    Case(
        instruction="STOPSIGNAL",
        form="absent: SIGTERM",
        text="FROM busybox\n" + TRAP % ("term", "TERM"),
        says="ready\nterm\n",
        status=5,
        stop=True,
    ),
    Case(
        instruction="HEALTHCHECK",
        form="CMD in shell form, as the user",
        text="FROM busybox\nUSER web\nHEALTHCHECK --interval=1s --timeout=2s CMD test $(id -u) = 33\n"
        + TRAP % ("x", "TERM"),
        says="ready\nx\n",
        status=5,
        health="healthy",
        often=True,
    ),
    Case(
        instruction="HEALTHCHECK",
        form="CMD in exec form that fails",
        text='FROM busybox\nHEALTHCHECK --interval=1s --retries=2 CMD ["false"]\n' + TRAP % ("x", "TERM"),
        says="ready\nx\n",
        status=5,
        health="unhealthy",
    ),
    Case(
        instruction="HEALTHCHECK",
        form="that takes too long",
        text='FROM busybox\nHEALTHCHECK --interval=1s --timeout=1s --retries=1 CMD ["sleep", "100"]\n'
        + TRAP % ("x", "TERM"),
        says="ready\nx\n",
        status=5,
        health="unhealthy",
    ),
    Case(
        instruction="HEALTHCHECK",
        form="NONE takes the base's away",
        text='FROM busybox AS a\nHEALTHCHECK CMD false\nFROM a\nHEALTHCHECK NONE\nCMD ["echo", "no check"]\n',
        says="no check\n",
        config={"Healthcheck": {"Test": ["NONE"]}},
    ),
    Case(
        instruction="SHELL",
        form="reads RUN, CMD and ENTRYPOINT",
        text='FROM busybox\nSHELL ["/bin/sh", "-c", "echo \\"by shell: $0\\""]\nCMD whatever\n',
        says="by shell: whatever\n",
    ),
    Case(
        instruction="SHELL",
        form="may be no shell at all",
        text='FROM busybox\nSHELL ["/bin/echo", "said:"]\nENTRYPOINT hello   $HOME\n',
        says="said: hello   $HOME\n",
    ),
    Case(
        instruction="# escape",
        form="another character than the backslash",
        base="",
        text='# escape=`\nFROM scratch\nCOPY busybox /\nCMD ["/busybox", `\n  "echo", "a\\\\b"]\n',
        says="a\\b\n",
    ),
    Case(
        instruction="# comments",
        form="and empty lines within an instruction",
        text='FROM busybox\nRUN echo a > /f \\\n# a comment\n\n  && echo b >> /f\nCMD ["cat", "/f"]\n',
        says="a\nb\n",
    ),
)
