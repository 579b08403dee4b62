import json

import pytest

from firekiln.errors import UsageError
from firekiln.machine.supervision.log import Line, LogWriter, read_log, timestamp
from firekiln.machine.supervision.logconfig import LogConfig


def write(folder, *pieces, **limits):
    writer = LogWriter(folder, LogConfig(**limits))
    for stream, data in pieces:
        writer.write(stream, data)
    writer.close()


def texts(lines):
    return [(line.stream, line.text) for line in lines]


def test_lines_are_kept_in_dockers_form_and_their_streams_apart(tmp_path):
    write(tmp_path, ("stdout", b"one\ntw"), ("stderr", b"oops\n"), ("stdout", b"o\nthree"))
    assert texts(read_log(tmp_path)) == [
        ("stdout", "one\n"),
        ("stderr", "oops\n"),
        ("stdout", "two\n"),
        ("stdout", "three"),
    ]
    first = json.loads((tmp_path / "log.json").read_text().splitlines()[0])
    assert set(first) == {"log", "stream", "time"}


def test_the_tail_is_the_last_lines(tmp_path):
    write(tmp_path, ("stdout", b"".join(b"%d\n" % n for n in range(10))))
    assert texts(read_log(tmp_path, tail=2)) == [("stdout", "8\n"), ("stdout", "9\n")]
    assert texts(read_log(tmp_path, tail=0)) == []


def test_a_long_line_is_cut_and_bytes_that_are_no_text_are_marked(tmp_path):
    write(tmp_path, ("stdout", b"x" * 40000 + b"\n\xff\n"))
    lines = [line.text for line in read_log(tmp_path)]
    assert [len(line) for line in lines] == [16384, 16384, 7233, 2]
    assert lines[-1] == "\ufffd\n"


def test_a_line_that_never_ends_is_not_held_in_memory(tmp_path):
    writer = LogWriter(tmp_path, LogConfig())
    for _ in range(100):
        writer.write("stdout", b"y" * 1000)
    assert len(writer._partial["stdout"]) < 16384
    writer.close()
    assert sum(len(line.text) for line in read_log(tmp_path)) == 100_000


def test_the_log_is_bounded_and_keeps_the_newest(tmp_path):
    pieces = [("stdout", b"%06d\n" % number) for number in range(2000)]
    write(tmp_path, *pieces, max_size=10_000, max_files=3)
    assert sum(path.stat().st_size for path in tmp_path.iterdir()) < 31_000
    lines = [int(line.text) for line in read_log(tmp_path)]
    assert lines == list(range(lines[0], 2000))


def test_following_goes_on_through_a_rotation_to_the_end(tmp_path):
    writer = LogWriter(tmp_path, LogConfig(max_size=500))
    writer.write("stdout", b"0\n")
    written = iter(range(1, 30))
    going_on = True

    def follow():
        nonlocal going_on
        number = next(written, None)
        if number is None:
            writer.close()
            going_on = False
        else:
            writer.write("stdout", b"%d\n" % number)
        return going_on

    assert [int(line.text) for line in read_log(tmp_path, follow=follow)] == list(range(30))


def test_a_machine_that_wrote_nothing_has_an_empty_log(tmp_path):
    assert list(read_log(tmp_path)) == []


def test_times_are_dockers():
    assert timestamp(0) == "0001-01-01T00:00:00Z"
    assert timestamp(1_700_000_000_000_000_001) == "2023-11-14T22:13:20.000000001Z"
    assert Line(stream="stdout", text="", time=timestamp(0)).time.endswith("Z")


@pytest.mark.parametrize("files", [1, 2, 5])
def test_as_many_files_are_kept_as_are_asked_for_and_a_follower_misses_no_line(tmp_path, files):
    writer = LogWriter(tmp_path, LogConfig(max_size=300, max_files=files))
    numbers = iter(range(100))

    def follow():
        number = next(numbers, None)
        if number is None:
            return False
        writer.write("stdout", b"%d\n" % number)  # a rotation every four lines
        return True

    lines = read_log(tmp_path, follow=follow)
    assert [int(line.text) for line in lines] == list(range(100))
    writer.close()
    assert len(list(tmp_path.glob("log.json*"))) == files
    kept = [int(line.text) for line in read_log(tmp_path)]
    assert kept == list(range(kept[0], 100)) if kept else files == 1


def test_what_is_older_is_found_in_the_middle_of_a_rotation(tmp_path):
    write(tmp_path, *(("stdout", b"%d\n" % number) for number in range(10)), max_size=200, max_files=9)
    (tmp_path / "log.json.1").rename(tmp_path / "moved")
    assert int(next(iter(read_log(tmp_path))).text) == 0


def test_a_line_that_a_full_disk_cut_short_is_passed_over(tmp_path):
    write(tmp_path, ("stdout", b"one\ntwo\n"))
    path = tmp_path / "log.json"
    first, second = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(first + second[:20] + b"\n" + second)
    assert texts(read_log(tmp_path)) == [("stdout", "one\n"), ("stdout", "two\n")]


def test_drivers_and_options_are_dockers():
    made = LogConfig.parse("json-file", {"max-size": "10m", "max-file": "5"})
    assert (made.driver, made.max_size, made.max_files) == ("json-file", 10 << 20, 5)
    assert LogConfig.parse("", {}) == LogConfig()
    assert LogConfig.parse("local", {"max-size": "20k"}).max_size == 20 << 10
    assert not LogConfig.parse("none", {}).is_kept


@pytest.mark.parametrize(
    ("driver", "options", "words"),
    [
        ("syslog", {}, "no log driver named 'syslog' is registered"),
        ("json-file", {"tag": "x"}, "unknown log opt 'tag' for json-file log driver"),
        ("none", {"max-size": "1m"}, "unknown log opt 'max-size' for none log driver"),
        ("json-file", {"max-size": "huge"}, "no size"),
        ("json-file", {"max-size": "1"}, "no size"),
        ("json-file", {"max-file": "0"}, "a number from 1"),
        ("json-file", {"max-file": "x"}, "a number from 1"),
    ],
)
def test_a_log_that_cannot_be_kept_so_is_refused(driver, options, words):
    with pytest.raises(UsageError, match=words):
        LogConfig.parse(driver, options)
