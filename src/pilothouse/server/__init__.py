"""The server: transports and the one composition root."""
