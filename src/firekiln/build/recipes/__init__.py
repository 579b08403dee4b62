"""Base systems that can be made, without a registry: which there are, and how."""

from firekiln.build.recipes.reading import distributions, read, recipes_folder
from firekiln.build.recipes.recipe import Distribution, Mmdebstrap, Recipe, RootArchive, find, listed

__all__ = [
    "Distribution",
    "Mmdebstrap",
    "Recipe",
    "RootArchive",
    "distributions",
    "find",
    "listed",
    "read",
    "recipes_folder",
]
