"""The application as a service of OpenRC or sysvinit: shell scripts of POSIX's words only. Pure.

/etc/firekiln/app runs the application, again where its restart policy says so, and tells of each end; the script in
/etc/init.d starts and stops that. Neither init has words for users, directories, restarts and stop signals that hold on
all its systems (there are two start-stop-daemons), so the script says these itself.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final

from firekiln.machine.guest.contract import Restart, WrittenFile
from firekiln.machine.services.service import AGENT, NAME, Service, environment, limit_words, privilege_words

RUNNER: Final = "/etc/firekiln/app"
SCRIPT: Final = f"/etc/init.d/{NAME}"
DEPENDENCIES: Final = ("etc/init.d/.depend.start", "etc/init.d/.depend.stop")
_KILLER: Final = "sendsigs"
_SPARED: Final = f"/run/{_KILLER}.omit.d"
_PIDFILE: Final = f"/run/{NAME}.pid"
_START_LEVELS: Final = (2, 3, 4, 5)
_STOP_LEVELS: Final = (0, 1, 6)


def openrc_files(service: Service) -> tuple[WrittenFile, ...]:
    """The service, in the run level `default`. MachineError where the image lacks what it takes."""
    text = f"""\
#!/sbin/openrc-run
# Written by firekiln at each start: the image's ENTRYPOINT and CMD as a service.
description="The application of this machine's image"

depend() {{
	use net
	after net firewall localmount
}}

start() {{
	ebegin "Starting the application"
	{_indented(_SPARE)}
	{_LAUNCH}
	eend $?
}}

stop() {{
	ebegin "Stopping the application"
	{_indented(_HALT)}
	eend 0
}}
"""
    return (
        *_program(service),
        WrittenFile(path=SCRIPT, data=text.encode(), mode=0o755),
        WrittenFile(path=f"/etc/runlevels/default/{NAME}", link=SCRIPT),
    )


def sysvinit_files(service: Service, dependencies: Mapping[str, str]) -> tuple[WrittenFile, ...]:
    """The service, in the run levels of LSB. MachineError where the image lacks what it takes.

    `dependencies` are those of DEPENDENCIES that the image has, by their paths: startpar(8) starts and stops only what
    they list.
    """
    script = f"""\
#!/bin/sh
# Written by firekiln at each start: the image's ENTRYPOINT and CMD as a service.
### BEGIN INIT INFO
# Provides:          {NAME}
# Required-Start:    $remote_fs $network
# Required-Stop:     $remote_fs $network
# Default-Start:     {" ".join(map(str, _START_LEVELS))}
# Default-Stop:      {" ".join(map(str, _STOP_LEVELS))}
# Short-Description: The application of this machine's image
### END INIT INFO

start() {{
	{_indented(_SPARE)}
	{_LAUNCH}
}}

stop() {{
	{_indented(_HALT)}
}}

case "$1" in
start) start ;;
stop) stop ;;
restart | force-reload) stop && start ;;
status) kill -0 "$(cat {_PIDFILE})" 2>/dev/null ;;
*) echo "Usage: $0 start|stop|restart|status" >&2; exit 2 ;;
esac
"""
    links = [(f"rc{level}.d/S99{NAME}") for level in _START_LEVELS]
    links += [(f"rc{level}.d/K01{NAME}") for level in _STOP_LEVELS]
    return (
        *_program(service),
        WrittenFile(path=SCRIPT, data=script.encode(), mode=0o755),
        *(WrittenFile(path=f"/etc/{link}", link=f"../init.d/{NAME}") for link in links),
        *(WrittenFile(path=f"/{path}", data=_listed(text).encode()) for path, text in dependencies.items()),
    )


def _listed(makefile: str) -> str:
    """insserv(8)'s list of services with ours, which ends before `sendsigs` kills all processes."""
    lines = [
        f"{line} {NAME}" if line.startswith(("TARGETS =", f"{_KILLER}:")) else line for line in makefile.splitlines()
    ]
    if _KILLER in makefile.split() and f"\n{_KILLER}:" not in makefile:
        lines.append(f"{_KILLER}: {NAME}")
    return "\n".join([*lines, ""])


def shell_quoted(word: str) -> str:
    """One word of the shell, whatever is in it."""
    return "'" + word.replace("'", "'\\''") + "'"


_SPARE: Final = f"""\
mkdir -p {_SPARED}
for process in /proc/[0-9]*; do
	read -r name <"$process/comm" && [ "$name" = firekiln ] && echo "${{process#/proc/}}"
done 2>/dev/null >{_SPARED}/firekiln"""
"""Has `sendsigs`, which OpenRC starts on Debian too, spare the agent, which is there until the end: else it waits ten
seconds, and kills it.
"""

_LAUNCH: Final = f"{RUNNER} </dev/null >/dev/null 2>&1 &"

_HALT: Final = f"""\
[ -r {_PIDFILE} ] && read -r pid <{_PIDFILE} || return 0
kill -s TERM "$pid" 2>/dev/null
while kill -0 "$pid" 2>/dev/null; do sleep 1; done
rm -f {_PIDFILE}"""
"""The runner sees to it that this ends."""


def runner(service: Service) -> str:
    """The script that runs the application: it becomes the application's parent, and lives as long."""
    process = service.process
    words = (*limit_words(service), *privilege_words(service), service.env or "env", "-i", *environment(service))
    command = " ".join(shell_quoted(word) for word in (*words, AGENT, "connect", *process.argv))
    killer = ":"
    if service.stop_timeout is not None:
        wait = f"trap 'kill $!; exit' TERM; sleep {service.stop_timeout:g} & wait $!"
        killer = f'({wait}; kill -s KILL "$app") 2>/dev/null & killer=$!'
    return f"""\
#!/bin/sh
# Written by firekiln at each start. Runs the application, again where its restart policy says so; tells of each end.
app= killer= stopping= caught= tries=0 pause=1

stop() {{
	stopping=1 caught=1
	[ -n "$app" ] || return 0
	kill -{process.stop_signal} "$app" 2>/dev/null
	{killer}
}}

run() {{
	cd {shell_quoted(process.cwd)} || exit 126
	exec {command}
}}

trap stop TERM INT
trap '' HUP
echo $$ >{_PIDFILE}
{_made_cwd(service)}
while [ -z "$stopping" ]; do
	began=$(date +%s)
	run </dev/null &
	app=$!
	[ -z "$stopping" ] || stop # the signal was quicker than that number
	while :; do
		caught=
		wait "$app"
		status=$?
		# What a signal ends `wait` with (143, 130) is not the application's status, which is to be had once more.
		case $caught$status in 1143 | 1130) ;; *) break ;; esac
	done
	app=
	[ -z "$killer" ] || kill "$killer" 2>/dev/null
	# An init that ends all processes is not to keep the agent from hearing of it.
	(trap '' TERM INT && exec {AGENT} exited "$status")
	[ -z "$stopping" ] && {_again(service.restart)} || break
	[ $(($(date +%s) - began)) -lt 10 ] || pause=1
	sleep "$pause" &
	wait $! # for a `sleep` by itself a shell keeps signals waiting
	[ -z "$stopping" ] || kill $! 2>/dev/null
	pause=$((pause * 2 < 60 ? pause * 2 : 60))
done
rm -f {_PIDFILE}
"""


def _program(service: Service) -> Iterable[WrittenFile]:
    yield WrittenFile(path=RUNNER, data=runner(service).encode("utf-8", "surrogateescape"), mode=0o700)


def _made_cwd(service: Service) -> str:
    return f"mkdir -p {shell_quoted(service.process.cwd)}" if service.make_cwd else ":"


def _again(restart: Restart) -> str:
    """The shell's condition for another start."""
    match restart.policy:
        case "no":
            return "false"
        case "on-failure":
            bound = f' && [ "$((tries += 1))" -le {restart.retries} ]' if restart.retries else ""
            return f'[ "$status" -ne 0 ]{bound}'
        case "always" | "unless-stopped":
            return "true"


def _indented(text: str) -> str:
    return text.replace("\n", "\n\t")
