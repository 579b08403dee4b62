"""Dockerfile text to typed instructions. Pure: no file is opened, nothing but errors is imported.

Nothing is exported here: who wants the parser alone must not wait for the rest.
"""
