"""The command line. Results go to stdout, progress and errors to stderr."""

from lwexplain.cli.commands import app as app
from lwexplain.cli.entry import main as main
