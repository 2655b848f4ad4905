"""Work that is written down before it is done."""
