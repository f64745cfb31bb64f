"""The command line: one file per subcommand, each a typed function ``command``.

Nothing here imports torch; a subcommand imports what it needs when it runs.
"""

from mlip.cli.main import main

__all__ = ["main"]
