"""The rehearsal: a cluster of several machines, made of namespaces on one, through a job and its faults."""
