"""What the stateful test of the engine is made of: graphs, the state that a journal tells, and a world of agents."""
