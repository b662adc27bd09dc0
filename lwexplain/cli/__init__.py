"""The command line. Results go to stdout, progress and errors to stderr."""

from lwexplain.cli.entry import main as main
from lwexplain.cli.own_network import app as app
