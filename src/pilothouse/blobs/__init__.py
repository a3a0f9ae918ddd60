"""Blobs: bounded, checksummed files for the transfer between clients and agents, such as checkouts."""
