import contextlib

import pytest

from firekiln.oci.credentials import Credentials
from firekiln.oci.reference import Reference
from firekiln.oci.registry import Limits, Network, RegistrySettings, Repository
from registries import faulty_registry

FAST = Limits(
    connect=2.0, silence=1.0, window=0.5, least=4096, attempts=3, backoff=0.01, longest_backoff=1.0, chunk=100_000
)


@pytest.fixture
def faulty():
    with faulty_registry() as registry:
        yield registry


@pytest.fixture
def connect(tmp_path):
    """Opens the repository `kiln/app` of a registry, impatiently."""
    with contextlib.ExitStack() as stack:

        def opened(host, name="kiln/app:1", *, limits=FAST, **settings):
            network = Network(registries={host: RegistrySettings(**settings)}, limits=limits)
            reference = Reference.parse(f"{host}/{name}")
            return stack.enter_context(Repository(reference, network, Credentials(tmp_path / "config.json")))

        yield opened
