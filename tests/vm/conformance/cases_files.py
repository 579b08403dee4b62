"""ADD, COPY and ignore files: what comes into the image."""

# ruff: noqa: E501 - a Dockerfile stands in one piece

from __future__ import annotations

from case import PARENT, Case

_STAT = 'CMD ["stat", "-c", "%u %g %a", "/a"]\n'

ADD = (
    Case(
        instruction="ADD",
        form="unpacks an archive of the context",
        text='FROM busybox\nADD archive.tar /out/\nCMD ["cat", "/out/in/archive"]\n',
        says="in the archive\n",
    ),
    Case(
        instruction="ADD",
        form="unpacks by content, not by name; what is no archive stays as it is",
        text='FROM busybox\nADD zipped /out/\nADD plain.gz /out/\nCMD ["sh", "-c", "cat /out/in/archive; zcat /out/plain.gz"]\n',
        says="in the archive\nplain\n",
    ),
    Case(
        instruction="ADD",
        form="--unpack=false",
        text='FROM busybox\nADD --unpack=false archive.tar /out/\nCMD ["ls", "/out"]\n',
        says="archive.tar\n",
        since=17,
        recorded=True,
    ),
    Case(
        instruction="ADD",
        form="--chown and --chmod",
        text="FROM busybox\nADD --chown=web:log --chmod=640 data/a /a\n" + _STAT,
        says="33 40 640\n",
    ),
    Case(
        instruction="ADD",
        form="of a URL: its name, mode 600; not unpacked",
        text='FROM busybox\nADD @HTTP@/archive.tar @HTTP@/data/a /out/\nCMD ["sh", "-c", "cat /out/a; stat -c \'%n %a\' /out/*"]\n',
        says="file a\n/out/a 600\n/out/archive.tar 600\n",
    ),
    Case(
        instruction="ADD",
        form="--unpack of a URL",
        text='FROM busybox\nADD --unpack @HTTP@/archive.tar /out/\nCMD ["cat", "/out/in/archive"]\n',
        says="in the archive\n",
        since=17,
        recorded=True,
    ),
    Case(
        instruction="ADD",
        form="--checksum, which is right",
        text='FROM busybox\nADD --checksum=sha256:@DIGEST@ @HTTP@/data/a /a\nCMD ["cat", "/a"]\n',
        says="file a\n",
        since=6,
        recorded=True,
    ),
    Case(
        instruction="ADD",
        form="--checksum, which is wrong",
        text=f"FROM busybox\nADD --checksum=sha256:{'0' * 64} @HTTP@/data/a /a\n",
        refused="digest mismatch",
        since=6,
        recorded=True,
    ),
    Case(
        instruction="ADD",
        form="of a URL that is not there",
        text="FROM busybox\nADD @HTTP@/nosuch /a\n",
        refused="404",
    ),
    Case(
        instruction="ADD",
        form="of a repository, a branch and a folder of it; --keep-git-dir",
        text='FROM busybox\nADD @GIT@/repo.git#side:sub /side\nADD --keep-git-dir=true @GIT@/repo.git /all\nCMD ["sh", "-c", "cat /side/f; ls -A /side /all"]\n',
        says="side\n/all:\n.git\nsub\n\n/side:\nf\n",
        since=6,
        unasked="not in Docker 20.10",
    ),
    Case(
        instruction="ADD",
        form="--link and --exclude",
        text='FROM busybox\nRUN ln -s real /l && mkdir /real\nADD --link --exclude=*.txt data /l/\nCMD ["sh", "-c", "ls /l /real"]\n',
        says="/l:\na\n\n/real:\n",
        since=19,
        recorded=True,
    ),
)

COPY = (
    Case(
        instruction="COPY",
        form="a file, a folder's content, wildcards",
        text='FROM busybox\nCOPY data/a /one\nCOPY data /all\nCOPY data/*.txt /text/\nCMD ["sh", "-c", "cat /one; ls /all /text"]\n',
        says="file a\n/all:\na\nb.txt\nc.txt\n\n/text:\nb.txt\nc.txt\n",
    ),
    Case(
        instruction="COPY",
        form="in JSON form, for names with blanks; wildcards of one character and of a set",
        text='FROM busybox\nWORKDIR /w\nCOPY ["odd/two words", "odd/[[]x].t?t", "./in there/"]\nCMD ["ls", "/w/in there"]\n',
        says="[x].txt\ntwo words\n",
    ),
    Case(
        instruction="COPY",
        form="relative to the WORKDIR; owners are root whoever USER is",
        text='FROM busybox\nUSER web\nWORKDIR /w\nCOPY data/a a\nCMD ["stat", "-c", "%n %u %g", "/w/a"]\n',
        says="/w/a 0 0\n",
    ),
    Case(
        instruction="COPY",
        form="of what is not there",
        text="FROM busybox\nCOPY nosuch /\n",
        refused='"/nosuch": not found',
    ),
    Case(
        instruction="COPY",
        form="of a wildcard that matches nothing",
        text='FROM busybox\nCOPY nosuch* /none/\nCMD ["ls", "-d", "/none"]\n',
        status=1,
    ),
    Case(
        instruction="COPY",
        form="--from a stage by name and by number, through a link",
        text='FROM busybox AS s\nRUN mkdir /r && echo deep > /r/f && ln -s r /l\nFROM busybox\nCOPY --from=s /l/f /f\nCOPY --from=1 /r/f /g\nCMD ["cat", "/f", "/g"]\n',
        says="deep\ndeep\n",
    ),
    Case(
        instruction="COPY",
        form="--from an image",
        parent="FROM scratch\nCOPY data /from\n",
        text=f'FROM busybox\nCOPY --from={PARENT} /from/a /f\nCMD ["cat", "/f"]\n',
        says="file a\n",
    ),
    Case(
        instruction="COPY",
        form="--from a further context",
        text='FROM busybox\nCOPY --from=other a /f\nCMD ["cat", "/f"]\n',
        build=("--build-context", "other=@CONTEXT@/data"),
        says="file a\n",
        unasked="Docker 20.10's client has no `--build-context`",
    ),
    Case(
        instruction="COPY",
        form="--chown by name, --chmod",
        text="FROM busybox\nCOPY --chown=web --chmod=0600 data/a /a\n" + _STAT,
        says="33 34 600\n",
    ),
    Case(
        instruction="COPY",
        form="--chown by numbers, and of a name that nobody has",
        text='FROM busybox\nCOPY --chown=7:8 data/a /a\nCOPY --chown=nosuch data/a /b\nCMD ["stat", "-c", "%u %g %a", "/a", "/b"]\n',
        says="7 8 644\n0 0 644\n",
    ),
    Case(
        instruction="COPY",
        form="--chmod by letters",
        text='FROM busybox\nCOPY --chmod=u=rwX,go=rX data /d\nCMD ["stat", "-c", "%a", "/d", "/d/a"]\n',
        says="755\n644\n",
        since=14,
        recorded=True,
    ),
    Case(
        instruction="COPY",
        form="--link over a link of the base",
        text='FROM busybox\nRUN ln -s real /l && mkdir /real\nCOPY --link data/a /l/a\nCMD ["sh", "-c", "ls -d /l/a && test ! -e /real/a && echo apart"]\n',
        says="/l/a\napart\n",
        since=4,
        recorded=True,
    ),
    Case(
        instruction="COPY",
        form="--parents",
        text='FROM busybox\nCOPY --parents nested/deep/f data/a /p/\nCOPY --parents nested/./deep/* /q/\nCMD ["sh", "-c", "cd /; find p q -type f | sort"]\n',
        says="p/data/a\np/nested/deep/f\nq/deep/f\n",
        since=20,
        recorded=True,
    ),
    Case(
        instruction="COPY",
        form="--exclude",
        text='FROM busybox\nCOPY --exclude=*.txt data /e/\nCMD ["ls", "/e"]\n',
        says="a\n",
        since=19,
        recorded=True,
    ),
    Case(
        instruction="COPY",
        form="a heredoc, expanded and not",
        text='FROM busybox\nENV WHO=me\nCOPY <<END <<"RAW" /d/\nhello $WHO\nEND\nhello $WHO\nRAW\nCMD ["cat", "/d/END", "/d/RAW"]\n',
        says="hello me\nhello $WHO\n",
        since=4,
        recorded=True,
    ),
    Case(
        instruction="COPY",
        form="through links of the image's folders",
        text='FROM busybox\nRUN mkdir /real && ln -s real /l\nCOPY data/a /l/\nCMD ["cat", "/real/a"]\n',
        says="file a\n",
    ),
    Case(
        instruction="COPY",
        form="set-user-id and times survive",
        text='FROM busybox AS s\nRUN cp /bin/busybox /s && chmod 4755 /s && touch -d "2001-02-03 04:05:06" /s\nFROM busybox\nCOPY --from=s /s /s\nCMD ["stat", "-c", "%a %Y", "/s"]\n',
        says="4755 981173106\n",
    ),
)

_TREE = 'CMD ["sh", "-c", "cd /c; find . -type f | sort"]\n'
IGNORED = (
    Case(
        instruction=".dockerignore",
        form="patterns, and exceptions from them",
        files={".dockerignore": "# a comment\n*\n!data\n!busybox\n**/*.txt\n!data/c.txt\n"},
        text="FROM busybox\nCOPY . /c\n" + _TREE,
        says="./busybox\n./data/a\n./data/c.txt\n",
    ),
    Case(
        instruction=".dockerignore",
        form="hides a file that COPY names",
        files={".dockerignore": "data/a\n"},
        text="FROM busybox\nCOPY data/a /a\n",
        refused='"/data/a": not found',
    ),
    Case(
        instruction=".dockerignore",
        form="of one Dockerfile, which hides the general one",
        dockerfile="web.Dockerfile",
        files={".dockerignore": "*\n", "web.Dockerfile.dockerignore": "data\nodd\nnested\n*ipped\n*.gz\n"},
        text="FROM busybox\nCOPY . /c\n" + _TREE,
        says="./.dockerignore\n./archive.tar\n./busybox\n./web.Dockerfile\n./web.Dockerfile.dockerignore\n",
    ),
)
