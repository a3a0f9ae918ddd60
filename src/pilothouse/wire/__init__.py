"""What server, agent and client say to each other: generated protobuf, entry schemas, masking. Imports nothing of ours."""
