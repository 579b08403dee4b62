"""The texts built from upstream's own repositories on the real bases, and booted: for a machine with internet.

Run by `scripts/upstream --online [WORD…]`: those texts whose path has a WORD in it, else all. Prints the table's rows.
"""

from __future__ import annotations

import sys
import time
import urllib.request

import firekiln
from firekiln.errors import FirekilnError
from firekiln.machine.options import RunOptions
from firekiln.machine.run import start
from firekiln.store import Store
from upstream.texts import TEXTS, Text, bases

_PATIENCE = 120  # seconds, from the start of a machine to its first answer
_MEMORY = 1 << 30
_SERVICES = {
    "consul": ((), 8500, "/v1/status/leader"),
    "minio": (("server", "/data"), 9000, "/minio/health/live"),
}
"""By product: what is added to `run`, where it answers, and what it is asked. Kafka Proxy prints its help and ends."""


def build(store: Store, text: Text) -> str:
    """The digest of the image. The text is the one that we have, whatever the repository holds."""
    online = text.online
    assert online is not None
    image = firekiln.build(
        online.url,
        dockerfile=text.file.read_bytes(),
        build_args=online.build_args,
        tags=[f"upstream/{text.product}:{text.file.name.lower()}"],
        store=store,
        pull="missing",
    ).image
    return image.digest


def answer(store: Store, text: Text, digest: str) -> str:
    """Boot the image; what it answered. FirekilnError, OSError where it did not."""
    if text.product not in _SERVICES:
        with start(store, RunOptions(image=digest, memory=_MEMORY)) as machine:
            status = machine.wait(_PATIENCE)
            said = "".join(line.text for line in machine.logs())
        if "Usage:" not in said:
            raise OSError(f"ended with {status} and printed no help")
        return f"prints its help and ends with {status}"
    args, port, path = _SERVICES[text.product]
    with start(store, RunOptions(image=digest, args=args, publish=(f"127.0.0.1:0:{port}",), memory=_MEMORY)) as machine:
        url = f"http://127.0.0.1:{machine.ports[0].host_port}{path}"
        status = _ask(url)
        machine.stop()
        return f"{path} on {port}: {status}; ends with {machine.wait()}"


def _ask(url: str) -> int:
    deadline = time.monotonic() + _PATIENCE
    while True:
        try:
            with urllib.request.urlopen(url, timeout=5) as page:
                return page.status
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.2)


def main(words: list[str]) -> int:
    failed = 0
    with Store.open(None) as store:
        for text in TEXTS:
            if words and not any(word in text.path for word in words):
                continue
            if text.online is None:
                said = "not built: its context holds programs that upstream's release process puts there"
            else:
                try:
                    said = answer(store, text, build(store, text))
                except (FirekilnError, OSError) as error:
                    said = f"FAILED: {error}".partition("\n")[0]
                    failed += 1
            names = ", ".join(f"`{name}`" for name in bases(text.file.read_text()))
            print(f"| `{text.path}` | {names} | {said} |", flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
