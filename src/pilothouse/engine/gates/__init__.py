"""Gates: steps that a service settles instead of an agent."""
