"""What is installed in an image, read from the package databases of its Tree, as SPDX or CycloneDX."""

from firekiln.build.sbom.inventory import Inventory, scan
from firekiln.build.sbom.package import Package, System

__all__ = ["Inventory", "Package", "System", "scan"]
