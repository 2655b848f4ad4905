"""Data centers and clusters."""
