"""One module per kind of operation that a vertex can be."""
