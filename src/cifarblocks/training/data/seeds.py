"""Streams of random numbers that depend on their purpose, and not on earlier draws."""

import hashlib

import torch


def random_stream(*key: object) -> torch.Generator:
    """Return a generator of random numbers on the CPU that depends only on the key."""
    digest = hashlib.sha256(repr(key).encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)
