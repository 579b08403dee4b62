"""Firecracker: a back end whose requests and command lines are made by pure functions."""
