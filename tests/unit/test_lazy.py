import subprocess
import sys

LOADED = """
import sys
from firekiln.lazy import load_lazily
load_lazily("inspect")
import dataclasses
print("dis" in sys.modules, end=" ")
import inspect
print(inspect.isfunction(load_lazily), dataclasses.inspect.isclass(int), end=" ")
import inspect
print(inspect.__file__ is not None, "dis" in sys.modules)
"""

SUPERVISOR = """
from firekiln.lazy import load_lazily
load_lazily("inspect")
import firekiln.machine.supervision.supervise
import firekiln.machine.vmm.accel
import sys
print(*sorted({"click", "datetime", "dis", "hashlib", "lzma", "shutil", "sqlite3"} & {*sys.modules}))
"""


def run(program):
    return subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout


def test_a_module_is_loaded_by_its_first_use_and_serves_those_who_imported_it_before():
    assert run(LOADED) == "False True True True True\n"


def test_a_supervisor_loads_nothing_large_that_it_does_not_need():
    assert run(SUPERVISOR) == "\n"
