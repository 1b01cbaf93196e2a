"""``python -m balred``: the command, where the script is not on the path."""

from balred.cli import app

if __name__ == "__main__":
    app(prog_name="balred")
