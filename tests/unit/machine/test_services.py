import os
import shlex
import shutil
import signal
import subprocess
import sys
import time

import pytest

from firekiln.errors import MachineError, UsageError
from firekiln.machine.guest.contract import Restart
from firekiln.machine.process import Process, Rlimit
from firekiln.machine.services import detect, own_init
from firekiln.machine.services.scripts import openrc_files, runner, sysvinit_files
from firekiln.machine.services.service import AGENT, service_of
from firekiln.machine.services.systemd import quoted, unit, unit_files
from trees import file, folder, link

PASSWD = b"root:x:0:0::/root:/bin/sh\nweb:x:33:34::/srv/www:/bin/sh\n"
GROUP = b"root:x:0:\nweb:x:34:\nadm:x:4:web\nlogs:x:90:\n"
ODD = (
    "a b",
    "",
    "$HOME ${X} $$",
    "50%",
    "%n",
    'q"uote',
    "it's",
    "back\\slash",
    "tab\tnew\nline",
    "é",
    "\udcff",
    ";",
    "-x",
    "@!+",
)


def program():
    return file(b"\x7fELF", mode=0o755)


def image(init, extra=None, folders=None):
    """A file system with such an init."""
    usr = {
        b"bin": folder({name: program() for name in (b"env", b"setpriv", b"prlimit")}),
        b"lib": folder({b"systemd": folder({b"systemd": program()})} if init == "systemd" else {}),
        b"sbin": folder({}),
    }
    etc = {b"passwd": file(PASSWD), b"group": file(GROUP), **(folders or {})}
    sbin = {b"init": link(b"../usr/lib/systemd/systemd") if init == "systemd" else program(), **(extra or {})}
    children = {b"usr": folder(usr), b"bin": link(b"usr/bin"), b"etc": folder(etc), b"lib": link(b"usr/lib")}
    if init:
        children[b"sbin"] = folder(sbin)
    return folder({**children, b"srv": folder({b"www": folder()})})


SYSTEMD = image("systemd")
OPENRC = image("openrc", {b"openrc-run": program()}, {b"inittab": file(), b"runlevels": folder()})
SYSVINIT = image("sysvinit", {}, {b"inittab": file(), b"rc2.d": folder()})


def process(*argv, **fields):
    given = {"env": ("PATH=/usr/bin:/bin",), "cwd": "/srv/www", **fields}
    return Process(argv=argv or ("/bin/server",), **given)


def service(tree=SYSTEMD, *argv, restart="no", stop_timeout=10.0, **fields):
    return service_of(tree, process(*argv, **fields), Restart.parse(restart), stop_timeout=stop_timeout)


def lines(text, key):
    return [line.partition("=")[2] for line in text.splitlines() if line.startswith(f"{key}=")]


def test_the_init_of_an_image_is_known_by_what_lies_at_sbin_init():
    assert detect(SYSTEMD).kind == "systemd"
    assert (detect(SYSTEMD).program, detect(SYSTEMD).stop_signal) == ("/usr/lib/systemd/systemd", 38)
    assert (detect(OPENRC).kind, detect(OPENRC).stop_argv) == ("openrc", ("/sbin/poweroff",))
    assert (detect(SYSVINIT).kind, detect(SYSVINIT).program) == ("sysvinit", "/sbin/init")
    assert detect(image("")) is None
    assert detect(image("openrc")) is None
    assert detect(folder()) is None


def test_an_image_s_init_is_pid_1_where_it_is_asked_for_or_is_the_command():
    def chosen(choice, tree, *argv):
        return own_init(choice, tree, process(*argv), Restart(), machine_id="m", stop_timeout=10.0)

    for choice in ("auto", "firekiln"):
        assert chosen(choice, SYSTEMD, "/bin/server") is None
    assert chosen("firekiln", SYSTEMD, "/sbin/init") is None
    made = chosen("image", SYSTEMD, "/bin/server")
    assert (made.init.argv, made.init.stop_signal) == (("/usr/lib/systemd/systemd",), 38)
    assert [item.path for item in made.files] == [
        "/etc/machine-id",
        "/etc/systemd/system/firekiln-app.service",
        "/etc/systemd/system/multi-user.target.wants/firekiln-app.service",
        "/etc/systemd/system/serial-getty@ttyS0.service",
        "/etc/systemd/system/serial-getty@ttyAMA0.service",
    ]
    for choice in ("auto", "image"):
        made = chosen(choice, SYSTEMD, "/lib/systemd/systemd", "--unit=rescue.target")
        assert made.init.argv == ("/lib/systemd/systemd", "--unit=rescue.target")
        assert [item.path for item in made.files] == ["/etc/machine-id"]
    with pytest.raises(UsageError, match="no init that firekiln knows"):
        chosen("image", image(""), "/bin/server")
    assert chosen("auto", image("other"), "/sbin/init") is None


def test_each_machine_has_an_id_of_its_own():
    ids = {
        own_init("image", SYSTEMD, process(), Restart(), machine_id=name, stop_timeout=1.0).files[0].data
        for name in ("a", "b", "a")
    }
    assert len(ids) == 2
    assert all(len(text) == 33 and int(text, 16) for text in ids)


def test_a_unit_says_all_that_the_image_says():
    text = unit(
        service(
            SYSTEMD,
            "/bin/server",
            "--port=80",
            user="web",
            groups=("logs", "7"),
            env=("PATH=/usr/bin", "GREETING=hello world", "HOME="),
            stop_signal=signal.SIGQUIT,
            rlimits=(Rlimit(name="nofile", soft=1024, hard=None), Rlimit(name="core", soft=0, hard=0)),
            restart="on-failure:3",
            stop_timeout=2.5,
        )
    )
    assert lines(text, "User") == ["33"]
    assert lines(text, "Group") == ["34"]
    assert lines(text, "SupplementaryGroups") == ["4 90 7"]
    assert lines(text, "WorkingDirectory") == ["/srv/www"]
    assert lines(text, "Environment") == ['"PATH=/usr/bin"', '"GREETING=hello world"', '"HOME=/srv/www"']
    assert lines(text, "ExecStart") == [f'"{AGENT}" "connect" "/bin/server" "--port=80"']
    assert lines(text, "ExecStopPost") == [f"+{AGENT} exited $EXIT_STATUS"]
    assert lines(text, "KillSignal") == ["3"]
    assert lines(text, "TimeoutStopSec") == ["2500ms"]
    assert (lines(text, "LimitNOFILE"), lines(text, "LimitCORE")) == (["1024:infinity"], ["0:0"])
    assert (lines(text, "Restart"), lines(text, "StartLimitBurst")) == (["on-failure"], ["4"])
    assert lines(text, "After") == lines(text, "Wants") == ["network-online.target"]


def test_a_unit_says_restart_and_time_out_in_systemd_s_words():
    said = {policy: lines(unit(service(restart=policy)), "Restart")[0] for policy in ("no", "always", "unless-stopped")}
    assert said == {"no": "no", "always": "always", "unless-stopped": "always"}
    assert lines(unit(service(restart="on-failure")), "StartLimitIntervalSec") == ["0"]
    assert lines(unit(service(stop_timeout=-1)), "TimeoutStopSec") == ["infinity"]
    assert lines(unit(service(stop_timeout=0)), "TimeoutStopSec") == ["1ms"]


def test_variables_that_no_unit_can_set_are_set_by_env():
    text = unit(service(SYSTEMD, "/bin/server", env=("A.B=1", "OK=2", "RAW=\udcff", "BELL=\a", "TAB=\t")))
    assert lines(text, "Environment") == ['"OK=2"', '"TAB=\\x09"', '"HOME=/root"']
    assert lines(text, "ExecStart") == [
        f'"{AGENT}" "connect" "/usr/bin/env" "A.B=1" "RAW=\\xff" "BELL=\\x07" "/bin/server"'
    ]


def test_a_user_that_passwd_lacks_is_set_by_setpriv():
    text = unit(service(SYSTEMD, "/bin/server", user="1234"))
    assert lines(text, "User") == []
    assert '"/usr/bin/setpriv" "--reuid=1234" "--regid=0" "--clear-groups" "/bin/server"' in text
    with pytest.raises(MachineError, match="unable to find user nobody"):
        service(user="nobody")
    busybox = folder(
        {**SYSTEMD.children, b"usr": folder({b"bin": folder({b"busybox": program(), b"setpriv": link(b"busybox")})})}
    )
    with pytest.raises(MachineError, match="user 1234"):
        unit(service(busybox, user="1234"))


def test_a_missing_working_directory_is_made():
    paths = [item.path for item in unit_files(service(cwd="/new/one"))]
    assert "/etc/tmpfiles.d/firekiln-app.conf" in paths
    assert "mkdir -p '/new/one'" in runner(service(cwd="/new/one"))
    assert "mkdir" not in runner(service())
    with pytest.raises(MachineError, match="working directory"):
        unit(service(cwd="/a\nb"))


@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="needs systemd-analyze")
def test_systemd_takes_a_unit_with_the_oddest_words_without_a_word(tmp_path):
    text = unit(
        service(
            SYSTEMD,
            "/bin/server",
            *ODD,
            user="web",
            cwd="/srv/www/50% of it",
            env=[f"V{n}={word}" for n, word in enumerate(ODD)],
            restart="on-failure:5",
            stop_signal=37,
        )
    )
    path = tmp_path / "firekiln-app.service"
    path.write_text(text.replace(AGENT, "/bin/true"))
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", "--recursive-errors=no", path],
        capture_output=True,
        text=True,
        check=False,
    )
    said = [line for line in done.stderr.splitlines() if "firekiln-app" in line]
    assert (said, done.returncode) == ([], 0)


def test_quoting_escapes_what_systemd_would_expand():
    assert quoted('a "b" \\ 100% \n \udcff é') == '"a \\"b\\" \\\\ 100%% \\x0a \\xff é"'


STUB = """#!{python}
import os, signal, sys
with open({log!r}, "a", errors="surrogateescape") as log:
    print(*sys.argv[1:], file=log)
if sys.argv[1] == "connect":
    signal.signal(signal.SIGQUIT, signal.SIG_DFL)  # which a shell has its background jobs ignore
    os.execvp(sys.argv[2], sys.argv[2:])
"""


def started(tmp_path, made, shell=("sh",), pause=1):
    """The script that runs the application, its agent a stub that notes what it is told."""
    log, agent, pidfile = tmp_path / "log", tmp_path / "agent", tmp_path / "pid"
    agent.write_text(STUB.format(python=sys.executable, log=str(log)))
    agent.chmod(0o755)
    text = runner(made).replace(AGENT, str(agent)).replace("/run/firekiln-app.pid", str(pidfile))
    text = text.replace("pause=1\n", f"pause={pause}\n")  # seconds until the next start
    script = tmp_path / "runner"
    script.write_bytes(text.encode("utf-8", "surrogateescape"))
    return subprocess.Popen([*shell, script], stderr=subprocess.PIPE), log


def exits(log):
    return [line for line in log.read_text(errors="replace").splitlines() if line.startswith("exited")]


def host(*argv, programs=False, rlimits=(), **fields):
    """A service of this host's programs."""
    tree = folder({b"etc": folder({b"passwd": file(PASSWD), b"group": file(GROUP)}), b"tmp": folder()})
    if programs:
        tree = folder({**tree.children, b"usr": SYSTEMD.children[b"usr"]})
    return service(tree, *argv, cwd="/tmp", rlimits=rlimits, **fields)


def test_the_script_gives_exactly_the_words_and_the_environment(tmp_path):
    out = tmp_path / "out"
    code = 'pwd; for w in "$@"; do printf "%s\\0" "$w"; done; tr "\\0" "\\1" </proc/$$/environ'
    words = ["sh", "-c", f"({code}) >{shlex.quote(str(out))}", "name", *ODD]
    process, log = started(tmp_path, host(*words, env=("PATH=/usr/bin:/bin", "A.B=it's $x")))
    assert process.wait(30) == 0
    text = out.read_bytes().decode("utf-8", "surrogateescape")
    assert text.startswith("/tmp\n" + "".join(f"{word}\0" for word in ODD))
    assert set(text.rpartition("\0")[2].split("\1")) - {""} >= {"A.B=it's $x", "HOME=/root", "PATH=/usr/bin:/bin"}
    assert exits(log) == ["exited 0"]


def test_the_script_restarts_as_its_policy_says(tmp_path):
    process, log = started(tmp_path, host("sh", "-c", "exit 3", restart="on-failure:1"))
    assert process.wait(30) == 0
    assert exits(log) == ["exited 3", "exited 3"]


def test_the_script_stops_by_the_stop_signal_and_then_by_force(tmp_path):
    stubborn = "trap 'echo got >>$1' QUIT; echo up >>$1; while :; do sleep 0.05; done"
    notes = tmp_path / "notes"
    made = host("sh", "-c", stubborn, "sh", str(notes), restart="always", stop_signal=signal.SIGQUIT, stop_timeout=0.5)
    process, log = started(tmp_path, made)
    deadline = time.monotonic() + 30
    while not notes.exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGTERM)
    assert process.wait(30) == 0
    assert notes.read_text() == "up\ngot\n"
    assert exits(log) == ["exited 137"]


def await_line(notes, line):
    deadline = time.monotonic() + 30
    while not (notes.exists() and line in notes.read_text().splitlines()) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert line in notes.read_text().splitlines()


QUICK = """
import os, signal, sys
signal.signal(signal.SIGUSR1, lambda *_: os._exit(3))
with open(sys.argv[1], "w") as notes:
    print("up", file=notes)
while True:
    signal.pause()
"""


@pytest.mark.parametrize("shell", [("dash",), ("busybox", "sh"), ("bash", "--posix")], ids=lambda words: words[0])
def test_an_end_quicker_than_the_shell_is_told_with_its_own_status(shell, tmp_path):
    if not shutil.which(shell[0]):
        pytest.skip(f"needs {shell[0]}")
    for number in range(5):  # a shell that gets it wrong does so in most
        folder = tmp_path / str(number)
        folder.mkdir()
        notes = folder / "notes"
        made = host(sys.executable, "-S", "-c", QUICK, str(notes), restart="no", stop_signal=signal.SIGUSR1)
        process, log = started(folder, made, shell)
        await_line(notes, "up")
        os.kill(process.pid, signal.SIGTERM)
        assert process.wait(30) == 0
        assert exits(log) == ["exited 3"]


def test_the_script_is_stopped_also_while_it_waits_for_the_next_start(tmp_path):
    process, log = started(tmp_path, host("sh", "-c", "exit 3", restart="always"), pause=600)
    await_line(log, "exited 3")
    os.kill(process.pid, signal.SIGTERM)
    assert process.wait(60) == 0
    assert exits(log) == ["exited 3"]


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
def test_the_script_runs_as_the_user_with_his_groups_and_limits(tmp_path):
    limits = (Rlimit(name="nofile", soft=99, hard=100),)
    made = host("sh", "-c", 'exit "$(id -u)$(ulimit -n)"', user="web", groups=("logs",), rlimits=limits, programs=True)
    text = runner(made)
    words = shlex.split(next(line for line in text.splitlines() if "exec " in line).strip())
    assert words[:3] == ["exec", "/usr/bin/prlimit", "--nofile=99:100"]
    command = [word for word in words[1:] if word not in (AGENT, "connect")]
    command[-1] = 'echo "$(id -u) $(id -g) $(id -G) $(ulimit -n)"'
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd="/")
    assert done.stdout == "33 34 34 4 90 99\n"


def sysvinit(made):
    start = "TARGETS = killprocs rc.local\nINTERACTIVE =\nrc.local: killprocs\n"
    stop = "TARGETS = sendsigs halt\nINTERACTIVE =\nhalt: sendsigs\n"
    return sysvinit_files(made, {"etc/init.d/.depend.start": start, "etc/init.d/.depend.stop": stop})


@pytest.mark.parametrize("made", [openrc_files, sysvinit])
def test_what_kills_all_at_the_end_spares_the_agent_from_before_the_application_starts(made):
    script = next(file.data.decode() for file in made(service()) if file.path.startswith("/etc/init.d/fire"))
    start = script.partition("start() {")[2].partition("\n}")[0]
    assert ">/run/sendsigs.omit.d/firekiln" in start.partition("/etc/firekiln/app")[0]


@pytest.mark.parametrize("made", [openrc_files, sysvinit])
def test_scripts_are_shell_and_enabled(made):
    files = {item.path: item for item in made(service(SYSVINIT, "/bin/server", *ODD, user="web"))}
    for item in files.values():
        if item.link is None and not item.path.rpartition("/")[2].startswith("."):
            done = subprocess.run(["sh", "-n"], input=item.data, capture_output=True, check=False)
            assert (done.returncode, done.stderr) == (0, b"")
    links = {path: item.link for path, item in files.items() if item.link is not None}
    if made is openrc_files:
        assert links == {"/etc/runlevels/default/firekiln-app": "/etc/init.d/firekiln-app"}
    else:
        assert links["/etc/rc2.d/S99firekiln-app"] == "../init.d/firekiln-app"
        assert links["/etc/rc0.d/K01firekiln-app"] == "../init.d/firekiln-app"
        assert files["/etc/init.d/.depend.start"].data.startswith(b"TARGETS = killprocs rc.local firekiln-app\n")
        assert b"\nsendsigs: firekiln-app\n" in files["/etc/init.d/.depend.stop"].data
