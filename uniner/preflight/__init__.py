"""Checks before a cluster is paid for: rights, keys, models, GPUs, disks, versions and input."""
