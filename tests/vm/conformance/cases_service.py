"""STOPSIGNAL, HEALTHCHECK, VOLUME, EXPOSE, LABEL, MAINTAINER, and the text itself."""

# ruff: noqa: E501 - a Dockerfile stands in one piece

from __future__ import annotations

from case import Case, Told

_SECOND = 1_000_000_000
_LOOP = "echo ready; while :; do sleep 0.1; done"


def trap(says: str, signals: str) -> str:
    """A CMD that says "ready", and ends with 5 when one of these signals comes."""
    return f'CMD ["sh", "-c", "trap \'echo {says}; exit 5\' {signals}; {_LOOP}"]\n'


STOPSIGNAL = (
    Case(
        instruction="STOPSIGNAL",
        form="by name",
        text="FROM busybox\nSTOPSIGNAL SIGUSR1\n" + trap("usr1", "USR1"),
        says="ready\nusr1\n",
        status=5,
        stop=120,
        often=True,
    ),
    Case(
        instruction="STOPSIGNAL",
        form="by number, which an ARG may tell",
        text="FROM busybox\nARG NUMBER=12\nSTOPSIGNAL $NUMBER\n" + trap("usr2", "USR2"),
        says="ready\nusr2\n",
        status=5,
        stop=120,
    ),
    Case(
        instruction="STOPSIGNAL",
        form="by RTMIN",
        text="FROM busybox\nSTOPSIGNAL SIGRTMIN+3\n" + trap("rtmin", "37"),
        says="ready\nrtmin\n",
        status=5,
        stop=120,
    ),
    Case(
        instruction="STOPSIGNAL",
        form="absent: SIGTERM",
        text="FROM busybox\n" + trap("term", "TERM"),
        says="ready\nterm\n",
        status=5,
        stop=120,
    ),
    Case(
        instruction="STOPSIGNAL",
        form="that is not heeded: SIGKILL follows",
        text=f'FROM busybox\nSTOPSIGNAL INT\nCMD ["sh", "-c", "trap \'\' INT; {_LOOP}"]\n',
        says="ready\n",
        status=137,
        stop=1,
    ),
    Case(
        instruction="STOPSIGNAL",
        form="replaced by --stop-signal",
        text="FROM busybox\nSTOPSIGNAL SIGUSR1\n" + trap("usr2", "USR2"),
        options=("--stop-signal", "SIGUSR2"),
        says="ready\nusr2\n",
        status=5,
        stop=120,
    ),
    Case(
        instruction="STOPSIGNAL",
        form="that is none",
        text="FROM busybox\nSTOPSIGNAL SIGNOPE\n",
        refused="Invalid signal: SIGNOPE",
    ),
)

HEALTHCHECK = (
    Case(
        instruction="HEALTHCHECK",
        form="CMD in shell form, as the user",
        text="FROM busybox\nUSER web\nWORKDIR /www\nENV A=1\nHEALTHCHECK --interval=1s --timeout=60s CMD test $(id -u)$PWD$A = 33/www1\n"
        + trap("x", "TERM"),
        says="ready\nx\n",
        status=5,
        stop=120,
        health="healthy",
        often=True,
    ),
    Case(
        instruction="HEALTHCHECK",
        form="CMD in exec form that fails, --retries",
        text='FROM busybox\nHEALTHCHECK --interval=1s --retries=2 CMD ["false"]\n' + trap("x", "TERM"),
        says="ready\nx\n",
        status=5,
        stop=120,
        health="unhealthy",
        checks=2,
    ),
    Case(
        instruction="HEALTHCHECK",
        form="that takes too long, --timeout",
        text='FROM busybox\nHEALTHCHECK --interval=1s --timeout=1s --retries=1 CMD ["sleep", "100"]\n'
        + trap("x", "TERM"),
        says="ready\nx\n",
        status=5,
        stop=120,
        health="unhealthy",
    ),
    Case(
        instruction="HEALTHCHECK",
        form="that fails within --start-period",
        text="FROM busybox\nHEALTHCHECK --interval=1s --start-period=10m --retries=1 CMD false\n" + trap("x", "TERM"),
        says="ready\nx\n",
        status=5,
        stop=120,
        health="starting",
        checks=2,
    ),
    Case(
        instruction="HEALTHCHECK",
        form="every --start-interval within --start-period",
        text="FROM busybox\nHEALTHCHECK --interval=1h --start-period=1h --start-interval=1s CMD [ -e /f ] || ! touch /f\n"
        + trap("x", "TERM"),
        says="ready\nx\n",
        status=5,
        stop=120,
        health="healthy",
        checks=2,
        since=6,
        unasked="not in Docker 20.10",
    ),
    Case(
        instruction="HEALTHCHECK",
        form="in shell form is read by the SHELL",
        text='FROM busybox\nSHELL ["/bin/sh", "-ec"]\nHEALTHCHECK --interval=1s --retries=1 CMD false; true\n'
        + trap("x", "TERM"),
        says="ready\nx\n",
        status=5,
        stop=120,
        health="unhealthy",
        docker=Told(says="ready\nx\n", status=5, health="healthy"),
        note="Docker takes /bin/sh for it, whatever the image's SHELL",
    ),
    Case(
        instruction="HEALTHCHECK",
        form="all options, in the config",
        text="FROM busybox\nHEALTHCHECK --interval=5m --timeout=3s --start-period=1m30s --retries=7 CMD true\nCMD true\n",
        config={
            "Healthcheck": {
                "Test": ["CMD-SHELL", "true"],
                "Interval": 300 * _SECOND,
                "Timeout": 3 * _SECOND,
                "StartPeriod": 90 * _SECOND,
                "Retries": 7,
            }
        },
    ),
    Case(
        instruction="HEALTHCHECK",
        form="NONE takes the base's away",
        text='FROM busybox AS a\nHEALTHCHECK CMD false\nFROM a\nHEALTHCHECK NONE\nCMD ["echo", "no check"]\n',
        says="no check\n",
        config={"Healthcheck": {"Test": ["NONE"]}},
    ),
    Case(
        instruction="HEALTHCHECK",
        form="of less than a millisecond",
        text="FROM busybox\nHEALTHCHECK --interval=10us CMD true\n",
        refused="cannot be less than 1ms",
    ),
)

VOLUME = (
    Case(
        instruction="VOLUME",
        form="keeps what lies there, its owner too",
        text='FROM busybox\nRUN mkdir /v && echo kept > /v/f && chown -R web /v\nVOLUME /v\nUSER web\nCMD ["sh", "-c", "cat /v/f && echo more > /v/g && cat /v/g && stat -c %u /v"]\n',
        says="kept\nmore\n33\n",
        config={"Volumes": {"/v": {}}},
    ),
    Case(
        instruction="VOLUME",
        form="several in shell form, with a variable; in JSON form, with a blank",
        text='FROM busybox\nENV D=/data\nVOLUME $D /more\nVOLUME ["/a b"]\nCMD ["sh", "-c", "grep -c -e \' /data \' -e \' /more \' -e \' /a.040b \' /proc/mounts"]\n',
        says="3\n",
        config={"Volumes": {"/data": {}, "/more": {}, "/a b": {}}},
    ),
    Case(
        instruction="VOLUME",
        form="keeps what later steps write there",
        text='FROM busybox\nRUN mkdir /v\nVOLUME /v\nRUN echo later > /v/f\nCMD ["cat", "/v/f"]\n',
        says="later\n",
    ),
)

EXPOSE = (
    Case(
        instruction="EXPOSE",
        form="a port, a range, a protocol, a variable; those of the base",
        text='FROM busybox AS a\nEXPOSE 443\nFROM a\nARG PORT=53/udp\nEXPOSE 80 81-82/tcp $PORT\nEXPOSE 7000-7001/udp\nCMD ["true"]\n',
        config={
            "ExposedPorts": {f"{port}": {} for port in "443/tcp 80/tcp 81/tcp 82/tcp 53/udp 7000/udp 7001/udp".split()}
        },
    ),
    Case(
        instruction="EXPOSE",
        form="that is no port",
        text="FROM busybox\nEXPOSE 70000\n",
        refused="invalid containerPort: 70000",
    ),
)

LABEL = (
    Case(
        instruction="LABEL",
        form="several, with quotes, a base's, and the old form",
        text='FROM busybox AS a\nLABEL a=1 b=1\nFROM a\nARG V=3\nLABEL b="two words" "c d"=\'$V\' e="$V" \\\n  f="a\\\nb"\nLABEL old form  of it\nCMD true\n',
        config={"Labels": {"a": "1", "b": "two words", "c d": "$V", "e": "3", "f": "ab", "old": "form  of it"}},
    ),
    Case(
        instruction="LABEL",
        form="added to by -l",
        text="FROM busybox\nLABEL a=image b=image\nCMD true\n",
        options=("-l", "b=run"),
        config={"Labels": {"a": "image", "b": "run"}},
    ),
)

MAINTAINER = (
    Case(
        instruction="MAINTAINER",
        form="(deprecated) is the image's author",
        text='FROM busybox\nMAINTAINER A B <a@b.example>\nCMD ["true"]\n',
        image={"Author": "A B <a@b.example>"},
    ),
)

TEXT = (
    Case(
        instruction="# syntax",
        form="is read, and nothing is fetched",
        base="",
        text='# syntax=127.0.0.1:9/nobody/has:this\nFROM scratch\nCOPY busybox /\nCMD ["/busybox", "echo", "ours"]\n',
        says="ours\n",
        docker=Told(refused=True),
        note="fetches that image, and has it read the file",
    ),
    Case(
        instruction="# escape",
        form="another character than the backslash",
        base="",
        text='# escape=`\nFROM scratch\nCOPY busybox /\nCMD ["/busybox", `\n  "echo", "a\\\\b"]\n',
        says="a\\b\n",
    ),
    Case(
        instruction="# escape",
        form="that is no such character",
        base="",
        text="# escape=x\nFROM scratch\nCOPY data /\n",
        refused="invalid escape token",
    ),
    Case(
        instruction="# check",
        form="error=true makes errors of warnings",
        base="",
        text="# check=error=true\nfrom scratch\nCOPY data/a /a\nMAINTAINER me\n",
        refused="lint violation found for rules: .*MaintainerDeprecated",
        since=8,
    ),
    Case(
        instruction="# check",
        form="skip=all asks nothing",
        base="",
        text="# check=skip=all;error=true\nfrom scratch\nCOPY data/a /a\nMAINTAINER me\n",
        boots=False,
        image={"Author": "me"},
        since=8,
    ),
    Case(
        instruction="# comments",
        form="and empty lines within an instruction; letters of any case",
        text='from busybox\n  run echo a > /f \\\n# a comment\n\n  && echo b >> /f\n# RUN false\nCmd ["cat", "/f"]\n',
        says="a\nb\n",
    ),
    Case(
        instruction="# comments",
        form="lines that end as Windows ends them",
        base="",
        text='FROM scratch\r\nCOPY busybox /\r\nCMD ["/busybox", \\\r\n "echo", "one"]\r\n',
        says="one\n",
    ),
    Case(
        instruction="# comments",
        form="an instruction that is none",
        base="",
        text="FROM scratch\nRUNN true\n",
        refused="unknown instruction: RUNN",
    ),
)
