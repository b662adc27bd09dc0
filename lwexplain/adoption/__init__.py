"""Networks that somebody else trained: looked at once, and kept as a run like any other."""
