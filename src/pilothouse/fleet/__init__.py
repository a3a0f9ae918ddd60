"""The fleet: which agents there are, whether they live, and what work is leased to them."""
