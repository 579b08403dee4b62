"""A machine's supervisor: see `supervise`. It is there as long as its machine, so that it is to be small."""

from firekiln.lazy import load_lazily

load_lazily("inspect")  # 1.5 MB with what it imports, and `dataclasses` imports it for what no supervisor does

import sys  # noqa: E402 - see above

from firekiln.machine.supervision.supervise import main  # noqa: E402 - see above

main(sys.argv[1:])
