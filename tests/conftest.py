"""What holds for all tests."""

import signal

import hypothesis
import pytest

# How long an example takes says something of the host's other work, and nothing of the code.
hypothesis.settings.register_profile("firekiln", deadline=None)
hypothesis.settings.load_profile("firekiln")

# A shell that starts the tests in its background, or nohup, has them ignore signals, and what they start inherits
# that: but tests of what a signal does need it to do something.
for number in (signal.SIGINT, signal.SIGHUP, signal.SIGTERM):
    if signal.getsignal(number) is signal.SIG_IGN:
        signal.signal(number, signal.default_int_handler if number is signal.SIGINT else signal.SIG_DFL)


@pytest.fixture(scope="session", autouse=True)
def configuration(tmp_path_factory):
    """The user's own configuration and logins play no part, and Docker Hub is never asked: bases are Debian's."""
    folder = tmp_path_factory.mktemp("configuration")
    (folder / "firekiln").mkdir()
    (folder / "firekiln" / "config.toml").write_text('[registry."docker.io"]\nblocked = true\n')
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CONFIG_HOME", str(folder))
        patch.setenv("DOCKER_CONFIG", str(folder))
        patch.delenv("REGISTRY_AUTH_FILE", raising=False)
        yield folder
