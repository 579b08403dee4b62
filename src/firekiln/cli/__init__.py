"""The command line: one module per group of verbs; the only place that prints or exits."""
