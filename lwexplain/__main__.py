"""``python -m lwexplain``."""

from lwexplain.cli import main

main()
