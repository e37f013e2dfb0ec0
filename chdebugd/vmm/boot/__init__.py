"""How a machine gets from its images to its first instruction."""
