"""Where a VM runs, and why not elsewhere. Pure."""
