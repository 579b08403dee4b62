from firekiln.build.ops.output import MAX_SIZE_VARIABLE, Log


def told(limit, *pieces):
    heard = []
    log = Log(lambda fd, data: heard.append((fd, data)), limit)
    for piece in pieces:
        log(1, piece)
    return log, heard


def test_output_within_the_limit_is_passed_on_as_it_is():
    log, heard = told(6, b"abc", b"def")
    assert heard == [(1, b"abc"), (1, b"def")]
    log.show_end()
    assert len(heard) == 2


def test_output_beyond_the_limit_is_clipped_once_and_its_end_can_still_be_shown():
    log, heard = told(4, b"abc", b"def", b"ghi")
    assert heard == [(1, b"abc"), (1, b"d"), (1, b"\n[output clipped, log limit reached]\n")]
    log.show_end()
    assert heard[-1] == (2, b"abcdefghi")


def test_of_endless_output_only_the_end_is_kept():
    log, _ = told(0, *(b"%05d" % number * 1000 for number in range(1000)))
    assert len(log.last) <= 65536
    assert log.last.endswith(b"00999" * 1000)
    log, _ = told(0, *(b"%d\n" % number for number in range(1000)))
    assert log.last.split() == [b"%d" % number for number in range(936, 1000)]


def test_the_limit_is_set_by_buildkit_s_variable(monkeypatch):
    monkeypatch.setenv(MAX_SIZE_VARIABLE, "2")
    assert told(None, b"abc")[1][0] == (1, b"ab")
    monkeypatch.setenv(MAX_SIZE_VARIABLE, "-1")
    assert told(None, b"x" * (1 << 25))[1] == [(1, b"x" * (1 << 25))]
