"""The README's table and plot."""
