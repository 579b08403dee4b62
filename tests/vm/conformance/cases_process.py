"""CMD, ENTRYPOINT, ENV, USER, WORKDIR and SHELL: the process, and what it finds."""

# ruff: noqa: E501 - a Dockerfile stands in one piece

from __future__ import annotations

from case import Case, Told

WHO = 'CMD ["sh", "-c", "id; echo $HOME; pwd"]\n'

CMD = (
    Case(
        instruction="CMD",
        form="in exec form, its words untouched",
        text=r"""FROM busybox
CMD ["printf", "<%s>", "a b", "'\"", "$HOME `id`", "line\nline", "", "\\"]
""",
        says="<a b><'\"><$HOME `id`><line\nline><><\\>",
        often=True,
    ),
    Case(
        instruction="CMD",
        form="in shell form, read by the SHELL",
        text="FROM busybox\nENV A=b\nCMD echo $A   c\n",
        says="b c\n",
    ),
    Case(
        instruction="CMD",
        form="of several the last, and not a base's",
        text='FROM busybox AS a\nCMD ["echo", "base"]\nFROM a\nCMD ["echo", "first"]\nCMD ["echo", "last"]\n',
        says="last\n",
    ),
    Case(
        instruction="CMD",
        form="replaced by arguments",
        text='FROM busybox\nCMD ["echo", "cmd"]\n',
        args=("echo", "given"),
        says="given\n",
        often=True,
    ),
    Case(
        instruction="CMD",
        form="[] takes the base's away",
        text='FROM busybox AS a\nCMD ["echo", "base"]\nFROM a\nCMD []\n',
        status=125,
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
        text='FROM busybox\nCMD ["sh", "-c", "kill -KILL $$; echo deaf"]\n',
        status=137,
        docker=Told(says="deaf\n"),
        note="a container's first process is PID 1, and deaf to its own SIGKILL",
    ),
)

_ENTRYPOINTS = {
    "no ENTRYPOINT": "",
    "ENTRYPOINT": "ENTRYPOINT echo entry\n",
    "[ENTRYPOINT]": 'ENTRYPOINT ["echo", "entry"]\n',
}
_COMMANDS = {"no CMD": "", "[CMD]": 'CMD ["echo", "cmd"]\n', "CMD": "CMD echo cmd\n"}
_SAYS = {
    ("no ENTRYPOINT", "[CMD]"): "cmd\n",
    ("no ENTRYPOINT", "CMD"): "cmd\n",
    ("[ENTRYPOINT]", "no CMD"): "entry\n",
    ("[ENTRYPOINT]", "[CMD]"): "entry echo cmd\n",
    ("[ENTRYPOINT]", "CMD"): "entry /bin/sh -c echo cmd\n",
}


def _combined(entry: str, command: str) -> Case:
    """One of the nine of the reference's table "Understand how CMD and ENTRYPOINT interact"."""
    nothing = (entry, command) == ("no ENTRYPOINT", "no CMD")
    return Case(
        instruction="ENTRYPOINT",
        form=f"{entry} with {command}",
        text=f"FROM busybox\n{_ENTRYPOINTS[entry]}{_COMMANDS[command]}",
        says="" if nothing else _SAYS.get((entry, command), "entry\n"),
        status=125 if nothing else 0,
    )


ENTRYPOINT = (
    *(_combined(entry, command) for entry in _ENTRYPOINTS for command in _COMMANDS),
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
        form="in shell form sees no arguments",
        text="FROM busybox\nENTRYPOINT echo entry $0 $@\n",
        args=("a", "b"),
        says="entry a b\n",
    ),
    Case(
        instruction="ENTRYPOINT",
        form="of a base drops its CMD",
        text='FROM busybox AS a\nCMD ["base"]\nFROM a\nENTRYPOINT ["echo", "entry"]\n',
        says="entry\n",
    ),
    Case(
        instruction="ENTRYPOINT",
        form="[] takes the base's away",
        text='FROM busybox AS a\nENTRYPOINT ["echo", "entry"]\nFROM a\nENTRYPOINT []\nCMD ["echo", "cmd"]\n',
        says="cmd\n",
    ),
    Case(
        instruction="ENTRYPOINT",
        form="replaced by --entrypoint, and CMD with it",
        text='FROM busybox\nENTRYPOINT ["echo", "entry"]\nCMD ["cmd"]\n',
        options=("--entrypoint", "printf"),
        args=("<%s>", "given"),
        says="<given>",
    ),
)

ENV = (
    Case(
        instruction="ENV",
        form="both forms, with expansion and quotes",
        text='FROM busybox\nENV A=1 B="two words"\nENV OLD form of it\nENV C=${A}-${X:-x}-${A:+y}-\\$A-${A}\\ b\nCMD ["sh", "-c", "echo \\"$A|$B|$OLD|$C\\""]\n',
        says="1|two words|form of it|1-x-y-$A-1 b\n",
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
        form="expansion that cuts and replaces",
        text='FROM busybox\nENV A=dir/sub/file.tar.gz\nENV B=${A##*/} C=${A%%.*} D=${A//\\//-} E=${A#*/} F=${A%.*}\nCMD ["sh", "-c", "echo $B $C $D $E $F"]\n',
        says="file.tar.gz dir/sub/file dir-sub-file.tar.gz sub/file.tar.gz dir/sub/file.tar\n",
        since=7,
        recorded=True,
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
        instruction="ENV",
        form="replaced and added to by -e",
        text='FROM busybox\nENV A=image B=image\nCMD ["sh", "-c", "echo $A $B $C"]\n',
        options=("-e", "B=run", "-e", "C=run"),
        says="image run run\n",
    ),
    Case(
        instruction="ENV", form="without a value", text="FROM busybox\nENV A\n", refused="ENV must have two arguments"
    ),
)

USER = (
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
        text="FROM busybox\nARG WHICH=33\nUSER $WHICH\n" + WHO,
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
        often=True,
    ),
    Case(
        instruction="USER",
        form="uid:group",
        text="FROM busybox\nUSER 990:ops\n" + WHO,
        says="uid=990 gid=50(ops) groups=50(ops)\n/\n/\n",
    ),
    Case(
        instruction="USER",
        form="by number, where there is no passwd at all",
        base="",
        text='FROM scratch\nCOPY busybox /\nUSER 7\nCMD ["/busybox", "sh", "-c", "/busybox id; echo $HOME"]\n',
        says="uid=7 gid=0 groups=0\n/\n",
    ),
    Case(
        instruction="USER",
        form="replaced by -u",
        text="FROM busybox\nUSER web\n" + WHO,
        options=("-u", "0:ops"),
        says="uid=0(root) gid=50(ops) groups=50(ops)\n/root\n/\n",
    ),
    Case(
        instruction="USER",
        form="that is not there",
        text="FROM busybox\nUSER nobody-at-all\n" + WHO,
        status=125,
        note="newer ones: 126",
    ),
    Case(
        instruction="USER",
        form="whose group is not there",
        text="FROM busybox\nUSER web:none\n" + WHO,
        status=125,
    ),
)

WORKDIR = (
    Case(
        instruction="WORKDIR",
        form="is made where it is absent, relative ones add up",
        text='FROM busybox\nWORKDIR /a\nWORKDIR b\nENV D=c\nWORKDIR $D\nCMD ["pwd"]\n',
        says="/a/b/c\n",
        often=True,
    ),
    Case(
        instruction="WORKDIR",
        form="that is made belongs to the USER",
        text='FROM busybox\nUSER web\nWORKDIR /made\nCMD ["stat", "-c", "%u %a", "."]\n',
        says="33 755\n",
    ),
    Case(
        instruction="WORKDIR",
        form="with blanks, in quotes and without",
        text='FROM busybox\nWORKDIR "/a b"\nWORKDIR c d\nCMD ["pwd"]\n',
        says="/a b/c d\n",
    ),
    Case(
        instruction="WORKDIR",
        form="through a link",
        text='FROM busybox\nRUN mkdir /real && ln -s real /l\nWORKDIR /l/in\nRUN echo x > f\nCMD ["sh", "-c", "ls /real/in; pwd"]\n',
        says="f\n/real/in\n",
    ),
    Case(
        instruction="WORKDIR",
        form="replaced by -w, which is made",
        text='FROM busybox\nWORKDIR /image\nCMD ["pwd"]\n',
        options=("-w", "/run/given"),
        says="/run/given\n",
    ),
)

SHELL = (
    Case(
        instruction="SHELL",
        form="reads RUN, CMD and ENTRYPOINT",
        text='FROM busybox\nSHELL ["/bin/sh", "-c", "echo \\"by shell: $0\\" | tee -a /log"]\nRUN step\nCMD whatever\n',
        says="by shell: whatever\n",
    ),
    Case(
        instruction="SHELL",
        form="may be no shell at all",
        text='FROM busybox\nSHELL ["/bin/echo", "said:"]\nENTRYPOINT hello   $HOME\n',
        says="said: hello   $HOME\n",
        often=True,
    ),
    Case(
        instruction="SHELL",
        form="of each RUN is the last before it, a base's too",
        text='FROM busybox AS a\nSHELL ["/bin/sh", "-xc"]\nFROM a\nRUN echo $- | grep -o [ex] > /f\nSHELL ["/bin/sh", "-ec"]\nRUN echo $- | grep -o [ex] >> /f\nCMD ["cat", "/f"]\n',
        says="x\ne\n",
    ),
    Case(
        instruction="SHELL",
        form="in shell form",
        text="FROM busybox\nSHELL /bin/sh -c\n",
        refused="JSON form",
    ),
)
