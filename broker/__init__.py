"""Who gets which desktop, and the ticket to reach it."""
