"""Similarity of representations: centred kernel alignment."""
