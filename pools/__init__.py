"""Time-leased pools."""
