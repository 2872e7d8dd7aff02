"""The command line: a parser, and one file per command."""

from wavedil.cli.parser import build_parser, main, register_command

__all__ = ["build_parser", "main", "register_command"]
