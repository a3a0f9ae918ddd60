"""WebSocket endpoints of the live streams of runs: one file per contract."""
