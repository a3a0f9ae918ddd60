"""The endpoints of the live streams of runs: a file per contract."""
