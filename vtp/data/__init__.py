"""Data sets: from their source to one file of uint8 tensors, and from there to batches."""
