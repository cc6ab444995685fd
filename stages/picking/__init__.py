"""Choose the images whose correction helps most."""
