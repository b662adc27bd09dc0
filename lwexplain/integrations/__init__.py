"""Thin adapters that call lwexplain from the loops of other libraries; each needs the extra of its name."""
