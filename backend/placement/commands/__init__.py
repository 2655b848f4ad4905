"""What may be wanted of placement: affinity, pins, policies."""
