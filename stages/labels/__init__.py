"""Turn class scores into masks, and keep them in HDF5."""
