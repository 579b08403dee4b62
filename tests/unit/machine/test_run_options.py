import pytest
from click.testing import CliRunner

from firekiln.cli.command import cli
from firekiln.cli.flags import from_host, parse_cpus, parse_drive_limit, parse_pairs, parse_size, read_env_file
from firekiln.cli.refusals import REFUSED
from firekiln.cli.table import human_duration
from firekiln.errors import FirekilnError, UsageError
from firekiln.machine.vmm.spec import DriveLimit


def invoke(tmp_path, *args):
    return CliRunner().invoke(cli, ["--root", str(tmp_path / "root"), *args], standalone_mode=False)


@pytest.mark.parametrize(
    ("text", "size"), [("64m", 64 << 20), ("1.5G", 3 << 29), ("2GiB", 2 << 30), ("4096", 4096), ("10kb", 10240)]
)
def test_sizes_are_read_as_docker_reads_them(text, size):
    assert parse_size(text, "-m") == size


@pytest.mark.parametrize("text", ["", "-1", "1x", "m", "1 2"])
def test_what_is_no_size_is_refused(text):
    with pytest.raises(UsageError, match="not a size"):
        parse_size(text, "-m")


@pytest.mark.parametrize(("text", "number"), [("1", 1), ("2.0", 2), ("16", 16)])
def test_processors_are_whole(text, number):
    assert parse_cpus(text) == number


@pytest.mark.parametrize("text", ["0", "0.5", "x", "-1", "nan", "inf", "1e9"])
def test_a_part_of_a_processor_is_refused(text):
    with pytest.raises(UsageError, match="whole number"):
        parse_cpus(text)


def test_a_variable_without_a_value_has_the_hosts(monkeypatch):
    monkeypatch.setenv("THERE", "yes=1")
    monkeypatch.delenv("ABSENT", raising=False)
    assert [from_host(word) for word in ("THERE", "ABSENT", "A=b=c", "A=")] == ["THERE=yes=1", "ABSENT", "A=b=c", "A="]


def test_an_env_file_is_read_as_docker_reads_it(tmp_path, monkeypatch):
    monkeypatch.setenv("THERE", "1")
    path = tmp_path / "env"
    path.write_text('# comment\n\n  A=1 # kept\nB="quoted"\nTHERE\nABSENT_HERE\n')
    assert read_env_file(path) == ["A=1 # kept", 'B="quoted"', "THERE=1"]
    path.write_text("A B=1\n")
    with pytest.raises(UsageError, match="contains whitespaces"):
        read_env_file(path)
    with pytest.raises(UsageError, match="no such file"):
        read_env_file(tmp_path / "none")


@pytest.mark.parametrize("name", [*REFUSED])
def test_what_a_machine_cannot_do_is_an_error_that_says_why_and_what_instead(tmp_path, name):
    result = invoke(tmp_path, "run", name, "value", "image")
    assert isinstance(result.exception, UsageError), name
    assert str(result.exception).startswith(f"{name}: ")
    assert result.exception.exit_status == 125
    assert result.exception.hint


def test_pairs_of_an_option_are_a_name_and_a_value():
    assert parse_pairs(["a=b=c", "d="], "annotation") == {"a": "b=c", "d": ""}
    for word in ("a", "=b", ""):
        with pytest.raises(UsageError, match="for --log-opt"):
            parse_pairs([word], "log-opt")


@pytest.mark.parametrize(
    "args",
    [["--bogus", "image"], [], ["-p", "x:y", "image"], ["-m", "1", "image"], ["image"], ["--name", "-", "image"]],
)
def test_a_run_that_cannot_be_ends_with_125(tmp_path, args):
    result = invoke(tmp_path, "run", *args)
    assert isinstance(result.exception, FirekilnError)
    assert result.exception.exit_status == 125


def test_a_cidfile_that_is_there_is_refused_and_a_new_one_not_left_behind(tmp_path):
    path = tmp_path / "cid"
    assert "not found" in str(invoke(tmp_path, "run", "--cidfile", str(path), "absent").exception)
    assert not path.exists()
    path.write_text("old")
    assert "container ID file found" in str(invoke(tmp_path, "run", "--cidfile", str(path), "absent").exception)
    assert path.read_text() == "old"


def test_an_empty_store_lists_no_machines(tmp_path):
    result = invoke(tmp_path, "ps", "-a")
    assert result.output.split() == "CONTAINER ID IMAGE COMMAND CREATED STATUS PORTS NAMES".split()


@pytest.mark.parametrize("verb", ["stop", "kill", "rm", "wait"])
def test_a_machine_that_is_not_there_is_named(tmp_path, verb):
    result = invoke(tmp_path, verb, "nothing")
    assert "No such container: nothing" in result.stderr
    assert result.return_value == 1 or result.exit_code == 1


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0.5, "Less than a second"),
        (1, "1 second"),
        (59, "59 seconds"),
        (60, "About a minute"),
        (150, "2 minutes"),
        (3600, "About an hour"),
        (47 * 3600, "47 hours"),
        (3 * 86400, "3 days"),
        (15 * 86400, "2 weeks"),
        (100 * 86400, "3 months"),
        (800 * 86400, "2 years"),
    ],
)
def test_durations_are_dockers(seconds, words):
    assert human_duration(seconds) == words


def test_limits_of_drives_are_dockers_words_with_or_without_its_device():
    made = parse_drive_limit(
        read_bps=["/dev/sda:2mb", "1mb"], write_bps=["/dev/sda:512k"], read_iops=[], write_iops=["100"]
    )
    assert made == DriveLimit(read_bps=1 << 20, write_bps=512 << 10, write_iops=100)
    assert parse_drive_limit(read_bps=[], write_bps=[], read_iops=[], write_iops=[]) is None


@pytest.mark.parametrize("word", ["sda:1mb", "0", "/dev/sda:", "-1", "/dev/sda:fast"])
def test_a_limit_that_is_none_is_refused(word):
    with pytest.raises(UsageError, match="--device-read-bps"):
        parse_drive_limit(read_bps=[word])
