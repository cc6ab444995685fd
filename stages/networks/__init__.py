"""Build, load and run networks."""
