"""Dockerfile text to typed instructions. Pure: no file is opened, nothing but errors is imported."""

from firekiln.dockerfile.check import CheckOptions, parse_check
from firekiln.dockerfile.convert import convert_syntax, parse_dockerfile, parse_trigger
from firekiln.dockerfile.excerpt import excerpt
from firekiln.dockerfile.expand import Expansion, expand, expand_heredoc
from firekiln.dockerfile.ignore import IgnorePatterns, ignore_lines, read_ignore
from firekiln.dockerfile.instructions import Dockerfile, Instruction, Stage
from firekiln.dockerfile.lint import lint
from firekiln.dockerfile.parser import Node, Syntax, parse_syntax
from firekiln.dockerfile.rules import RULES, CheckWarning, Rule
from firekiln.dockerfile.view import view_syntax

__all__ = [
    "RULES",
    "CheckOptions",
    "CheckWarning",
    "Dockerfile",
    "Expansion",
    "IgnorePatterns",
    "Instruction",
    "Node",
    "Rule",
    "Stage",
    "Syntax",
    "convert_syntax",
    "excerpt",
    "expand",
    "expand_heredoc",
    "ignore_lines",
    "lint",
    "parse_check",
    "parse_dockerfile",
    "parse_syntax",
    "parse_trigger",
    "read_ignore",
    "view_syntax",
]
