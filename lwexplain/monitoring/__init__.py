"""Looks at every stage of a network while anybody's loop trains it; see ``monitor.Monitor``."""
