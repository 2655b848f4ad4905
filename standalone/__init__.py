"""Everything on one machine: what make run starts."""
