"""The protocol between server, agents and clients: protobuf, entry types, masking."""
