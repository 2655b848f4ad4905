"""Fencing and high availability: proof that a host is off, and its VMs running again elsewhere."""
