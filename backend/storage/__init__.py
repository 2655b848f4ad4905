"""Storage domains, disks and their volumes."""
