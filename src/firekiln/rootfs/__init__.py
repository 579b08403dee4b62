"""File systems as values: readers make Trees, writers take them."""
