"""The command line: everything over REST, nothing else."""
