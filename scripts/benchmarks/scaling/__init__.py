"""What a token costs in longer rows."""
