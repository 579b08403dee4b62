"""Snapshots of running machines, and machines that start from them. See docs/reference/snapshots.md."""
