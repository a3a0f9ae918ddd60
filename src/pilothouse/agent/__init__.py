"""The worker: links to the server, executors, spool."""

import os

# Steps are started by fork and exec. gRPC's handlers for a fork that goes on have no business in between, and have
# crashed the child there. It reads this once, before its first use.
os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")
