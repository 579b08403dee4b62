"""Registries of images: `Repository` reads and writes one repository; `Network` says how registries are reached."""

from firekiln.oci.registry.repository import Repository
from firekiln.oci.registry.settings import Endpoint, Limits, Network, RegistrySettings

__all__ = ["Endpoint", "Limits", "Network", "RegistrySettings", "Repository"]
