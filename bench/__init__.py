"""Measurements of Leasehold, each beside a floor measured in the same run: `make bench`."""
