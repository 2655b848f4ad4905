"""What placement needs to know beside hosts and VMs: promised room, affinity, own policies, the last decision of each VM."""
