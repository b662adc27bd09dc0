"""Separability of the classes by distances and by scatter."""
