"""Blobs: bounded, checksummed files on their way between clients and agents, such as a checkout."""
