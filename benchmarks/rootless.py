#!/usr/bin/env python3
"""How long builds take as an ordinary user, beside root's of the same Dockerfiles, in turns, on the same disk.

usage: .venv/bin/python benchmarks/rootless.py [--rounds N]     as root: the user is scripts/as-user's

Each has a store with a Debian base of its own, made by `firekiln base create` and not counted. Prints a Markdown table
of medians; nothing is left behind.
"""

import argparse
import shutil
import statistics
import subprocess
import tempfile
import time
from pathlib import Path

TOP = Path(__file__).parent.parent
FIREKILN = TOP / ".venv/bin/firekiln"
BASE = "FROM debian:bookworm-slim\n"
ROWS = {
    "21 `RUN true`": BASE + "RUN true\n" * 21,
    "20 RUN that write 50 files each": BASE
    + "".join(f"RUN mkdir /d{n} && for i in $(seq 50); do echo $i > /d{n}/$i; done\n" for n in range(20)),
    "RUN that changes the owner of 2,000 files": BASE
    + "RUN mkdir /d && for i in $(seq 2000); do echo $i > /d/$i; done && chown -R www-data /d && chmod -R go= /d\n"
    + "RUN ls -R /d > /list\n",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    rounds = parser.parse_args().rounds
    home = Path(tempfile.mkdtemp(prefix="firekiln-rootless-", dir="/var/tmp"))
    try:
        home.chmod(0o755)
        whose = {"root": [], "user": [TOP / "scripts/as-user", "--home", home / "user"]}
        (home / "user").mkdir()
        for name, prefix in whose.items():
            run(prefix, home, name, "base", "create", "debian:bookworm-slim")
        print("| build | root, s | user, s | ratio |\n|---|---|---|---|")
        entering = becoming(whose["user"])
        first = build(whose["user"], home, "user", BASE + "RUN true\n") - entering
        for title, text in ROWS.items():
            seconds = {name: [] for name in whose}
            for _ in range(rounds):
                for name, prefix in whose.items():
                    seconds[name].append(build(prefix, home, name, text))
            root, user = (statistics.median(values) for values in seconds.values())
            user -= entering
            print(f"| {title} | {root:.2f} | {user:.2f} | {user / root:.2f} |", flush=True)
        print(f"\nThe first RUN on a base, which writes it out as a directory, took the user {first:.2f} s.")
    finally:
        shutil.rmtree(home)


def becoming(prefix):
    """Seconds that it takes to be the user, which are no part of a build."""
    taken = []
    for _ in range(5):
        began = time.monotonic()
        subprocess.run([*map(str, prefix), "true"], check=True)
        taken.append(time.monotonic() - began)
    return statistics.median(taken)


def build(prefix, home, name, text):
    """Seconds of a build without cache."""
    file = home / "Dockerfile"
    file.write_text(text)
    began = time.monotonic()
    run(prefix, home, name, "build", "--no-cache", "-q", "-f", file, home / "context")
    return time.monotonic() - began


def run(prefix, home, name, *args):
    (home / "context").mkdir(exist_ok=True)
    store = home / name / "store" if name == "user" else home / "root"
    argv = [*prefix, FIREKILN, "--root", store, *args]
    done = subprocess.run([str(word) for word in argv], check=False, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"rootless: {' '.join(map(str, args))}: {done.stderr}")


if __name__ == "__main__":
    main()
