"""The HTTP and gRPC edge: authentication, rate limits, errors, idempotency, paging, OpenAPI, streams."""
