"""The command line, over REST only."""
