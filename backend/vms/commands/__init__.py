"""What may be wanted of virtual machines."""
