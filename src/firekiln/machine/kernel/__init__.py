"""Kernels: Debian's, our own or a file's, kept in the store as ELF images with their modules."""

from firekiln.machine.kernel.catalog import (
    Kernel,
    Module,
    bzimage_file,
    default_kernel,
    generic_kernels,
    intact_kernel,
    kernel_file,
    kernels,
)
from firekiln.machine.kernel.debian import pull, pull_generic

__all__ = [
    "Kernel",
    "Module",
    "bzimage_file",
    "default_kernel",
    "generic_kernels",
    "intact_kernel",
    "kernel_file",
    "kernels",
    "pull",
    "pull_generic",
]
