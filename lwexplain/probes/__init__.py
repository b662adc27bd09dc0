"""Probes: what is measured on the features of a stage."""
