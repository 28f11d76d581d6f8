"""Text out of a language model: in batches, as a stream, or word by word with probabilities."""
