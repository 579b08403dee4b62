"""`firekiln export` and `firekiln build -o` through the command line."""

import io
import subprocess
import sys
import tarfile

import pytest

from exporting import lower
from firekiln.cli.export import Bar, Exports
from firekiln.errors import UsageError
from firekiln.store import Store
from machines import argv, put_image


@pytest.fixture
def store(tmp_path):
    with Store.open(tmp_path / "store") as made:
        put_image(made, "app", lower(), cmd=("/bin/app",))
        yield made


def run(store, *words, **options):
    return subprocess.run(argv(store, *words), capture_output=True, check=False, timeout=60, **options)


def test_a_tar_goes_to_standard_output(store):
    done = run(store, "export", "app", "-o", "-")
    assert (done.returncode, done.stderr) == (0, b"")
    with tarfile.open(fileobj=io.BytesIO(done.stdout)) as archive:
        assert "./etc/passwd" in archive.getnames() or "etc/passwd" in archive.getnames()


def test_several_outputs_are_written_one_after_the_other(store, tmp_path):
    outputs = ("-o", f"type=erofs,dest={tmp_path}/a,boot=false", "-o", f"type=oci,dest={tmp_path}/b")
    done = run(store, "export", "app", *outputs)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")
    assert (tmp_path / "a").stat().st_size > 0
    assert tarfile.is_tarfile(tmp_path / "b")


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (("export", "app"), b"--output"),
        (("export", "app", "-o", "type=iso,dest=x"), b"no output of type iso"),
        (("export", "app", "-o", "type=cpio,dest=x", "--verity"), b"x is of a type without"),
        (("export", "app", "-o", "type=ext4,dest=/dev/null"), b"no regular file"),
        (("export", "nobody/has-this", "-o", "-"), b"nobody/has-this"),
        (("build", "-o", "type=ext4", "."), b"dest is required"),
    ],
)
def test_what_is_wrong_is_said_in_a_line(store, words, complaint):
    done = run(store, *words)
    assert done.returncode != 0
    assert complaint in done.stderr
    assert b"Traceback" not in done.stderr
    assert done.stdout == b""


def test_two_outputs_may_not_have_one_destination():
    with pytest.raises(UsageError, match="same dest"):
        Exports(["type=tar", "type=oci"], root=None)


def test_a_build_without_outputs_does_not_load_what_writes_them():
    program = "import sys; from firekiln.cli import build, export; export.Exports((), root=None); print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True).stdout.split()
    assert "firekiln.cli.build" in loaded
    assert not [name for name in loaded if name.startswith(("firekiln.machine.export", "firekiln.rootfs.ext4"))]


def test_the_bar_shows_bytes_of_bytes_and_goes_at_the_end():
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    bar, stream = Bar(terminal := Terminal(), "exporting x"), terminal
    bar(50_000_000, 200_000_000)
    bar(60_000_000, None)
    bar.close()
    assert "25% 50MB/200MB" in stream.getvalue()
    assert "exporting x 60MB" in stream.getvalue()
    assert stream.getvalue().endswith("\r\x1b[K")


def test_without_a_terminal_the_bar_is_a_line_now_and_then():
    stream = io.StringIO()
    bar = Bar(stream, "exporting x")
    for done in range(1, 100):
        bar(done * 1_000_000, 100_000_000)
    bar.close()
    assert stream.getvalue() == "exporting x 1% 1MB/100MB\n"
