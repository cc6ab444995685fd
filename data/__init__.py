"""Data sets: readers that turn a folder into a `Dataset`, image and mask files, training views, the drawn sample."""
