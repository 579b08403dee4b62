"""VMMs that tests start themselves, their serial consoles, and what answers in them."""

import re
import socket
import subprocess
import threading
import time
import urllib.request
from contextlib import contextmanager

_CONTROL = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


class Console:
    """What has been said so far; a thread reads it."""

    def __init__(self, stream):
        self._stream = stream
        self._text = ""
        self._changed = threading.Condition()
        self._ended = False
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def await_text(self, text, seconds=180):
        """Wait until it has been said. AssertionError with all that was, where it was not in time."""
        with self._changed:
            self._changed.wait_for(lambda: text in self._text or self._ended, seconds)
            assert text in self._text, self._text[-4000:]

    def _read(self):
        while data := self._stream.read1(4096):
            with self._changed:
                self._text += _CONTROL.sub("", data.decode(errors="replace")).replace("\r", "")
                self._changed.notify_all()
        with self._changed:
            self._ended = True
            self._changed.notify_all()


@contextmanager
def running(argv):
    """The console of a program that is ended with the block."""
    with subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as process:
        try:
            yield Console(process.stdout)
        finally:
            process.kill()


def free_port():
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def answer(port, seconds=30):
    """What a GET of / says, once something answers."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=5) as reply:
                return reply.read().decode()
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.2)
