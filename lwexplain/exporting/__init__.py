"""The shorter network as a file that runs without lwexplain."""
