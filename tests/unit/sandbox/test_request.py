from firekiln.sandbox.request import Attached, Report, Request, Stack, Stub, Tmpfs


def test_a_request_survives_the_border_with_any_bytes_in_it():
    request = Request(
        layers=(0, 5),
        args=("/bin/sh", "a\udcff\nb"),
        env=("X=ä\udc80",),
        cwd="/",
        user="bob",
        mounts=(
            Stack(target="/m", layers=(1,), source="/", upper=None),
            Attached(target="/t\udcfe", descriptor=0, source=None),
            Tmpfs(target="/s", size=5),
        ),
        private_network=True,
        insecure=False,
        hostname="h",
        hosts="",
        resolv_conf="",
        shm_size=1 << 20,
        rlimits=((7, 5, -1), (6, 1, 2)),
        pid_max=400,
        groups=2,
    )
    assert Request.decode(request.encode()) == request


def test_a_report_survives_the_border():
    stubs = (Stub(made=("a\udcff",), above=(("", 1, 2, 3, 4),)),)
    for report in (Report(stubs=stubs), Report(error="x"), Report(status=137), Report(stubs=())):
        assert Report.decode(report.encode()) == report
