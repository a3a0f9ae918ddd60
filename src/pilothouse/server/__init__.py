"""The server: HTTP and gRPC, and the composition root."""
