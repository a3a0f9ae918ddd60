"""What server, agent and client say to each other: protobuf, entry schemas, masking."""
