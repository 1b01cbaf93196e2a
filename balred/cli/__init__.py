"""The command ``balred``: options read, the library asked, results printed; a file for each group of commands."""

from balred.cli.main import app

__all__ = ["app"]
