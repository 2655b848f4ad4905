"""Hosts and what they report."""
