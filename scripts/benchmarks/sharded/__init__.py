"""A model spread over processes: what each holds, and that all learn the same."""
