"""Decide over all passages at once: which are duplicates, and which are the n that are wanted.

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


def smallest(digests: np.ndarray, strata: np.ndarray, count: int) -> np.ndarray:
    """Tell for each passage whether it is one of `count`, of each stratum those with the smallest digests.

    The strata get the same number, as far as they have it; what the small ones lack goes to the others. One
    stratum for all makes it a plain sample. Each passage of a stratum has the same chance.
    """
    names, members = np.unique(strata, return_inverse=True)
    sizes = np.bincount(members, minlength=len(names))
    quotas, left = np.zeros(len(names), np.int64), count
    for done, stratum in enumerate(np.argsort(sizes, kind="stable")):
        quotas[stratum] = min(sizes[stratum], left // (len(names) - done))
        left -= quotas[stratum]
    order = np.lexsort((digests, members))
    rank_in_stratum = np.arange(len(digests)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    kept = np.zeros(len(digests), bool)
    kept[order] = rank_in_stratum < quotas[members[order]]
    return kept
