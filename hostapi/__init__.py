"""What manager and host say to each other, defined once."""
