"""The command ``balred``; frameworks and studies are imported only by the command that needs them."""

from balred.cli.main import app

__all__ = ["app"]
