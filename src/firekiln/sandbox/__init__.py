"""RUN steps in Linux namespaces."""
