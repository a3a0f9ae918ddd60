"""Uploads (decisions.md, "Arcentra"): files that users keep on the server, sent at once or in resumable parts."""
