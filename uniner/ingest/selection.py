"""Decide over all passages at once: which are duplicates.

A passage is known by the digest of its text: 16 bytes of memory each while this is decided, so a sample of
10 million takes 160 MB in one process.
"""

import hashlib

import numpy as np


def digest(text: str, seed: int) -> int:
    """Return a passage's digest, 64 bits: the same for texts that differ in case and white space alone.

    The seed goes in, so that the order of digests is a random order of the texts, another for each seed.
    """
    folded = " ".join(text.casefold().split()).encode()
    return int.from_bytes(hashlib.blake2b(folded, digest_size=8, key=str(seed).encode()[:64]).digest())


def repeated(digests: np.ndarray) -> np.ndarray:
    """Tell for each passage, all in the order of the corpus, whether one before it has the same text."""
    later = np.ones(len(digests), bool)
    later[np.unique(digests, return_index=True)[1]] = False
    return later
