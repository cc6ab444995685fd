"""Masks that people corrected: how a run keeps them, and what the stages do with them."""
