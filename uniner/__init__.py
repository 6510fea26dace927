"""UniNER: distil a large model's open named-entity recognition into a small one, on Ray."""

__version__ = "0.1.0"
"""Known without an installed distribution: a cluster has the code alone."""
