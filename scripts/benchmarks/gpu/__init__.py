"""One GPU: whether it computes what the processor computes, and what it does in a second."""
