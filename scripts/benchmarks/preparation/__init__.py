"""From text files to rows ready to train on, here and in peers."""
