import pytest

from firekiln.machine.guest.reports import Health
from firekiln.machine.supervision.live import HEALTH_LOG, Live, with_result


def result(**changes):
    return Health(
        **{"status": "unhealthy", "streak": 1, "start_ns": 1, "end_ns": 2, "code": 1, "output": "", **changes}
    )


@pytest.mark.parametrize(
    ("written", "told"),
    [("", "Health check exceeded timeout"), ("half\n", "Health check exceeded timeout: half\n")],
)
def test_a_check_that_took_too_long_says_so(written, told):
    entry = with_result(Live(), result(code=-1, output=written)).log[-1]
    assert (entry["ExitCode"], entry["Output"]) == (-1, told)


def test_what_a_check_wrote_is_told_as_it_is_and_the_last_results_are_kept():
    live = Live()
    for number in range(HEALTH_LOG + 2):
        live = with_result(live, result(output=f"{number}\n"))
    assert [entry["Output"] for entry in live.log] == [f"{number}\n" for number in range(2, HEALTH_LOG + 2)]
