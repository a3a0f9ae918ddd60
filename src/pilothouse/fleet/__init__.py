"""The fleet: agents, their liveness, and the work leased to them."""
