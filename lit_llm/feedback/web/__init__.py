"""The ranking app in the browser."""
