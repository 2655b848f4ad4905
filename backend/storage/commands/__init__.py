"""What may be wanted of storage."""
