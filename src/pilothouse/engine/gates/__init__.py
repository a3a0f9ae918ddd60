"""Gates: steps that a service settles in place of an agent."""
