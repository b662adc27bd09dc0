"""Random generators that are a function of their key alone, so that nothing draws from global state."""

import hashlib

import torch


def keyed_generator(*key: int | str) -> torch.Generator:
    """A CPU generator seeded by ``key``; equal keys give equal streams on every machine."""
    digest = hashlib.sha256(repr(key).encode()).digest()
    # torch's CPU engine reads the low 32 bits of its seed only
    return torch.Generator().manual_seed(int.from_bytes(digest[:4], "big"))
