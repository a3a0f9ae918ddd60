"""What agents push about their step attempts: log lines and events, masked, in order, each taken in once."""
