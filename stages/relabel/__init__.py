"""Turn the labels of CAMs into better ones: heads on frozen features learn what many images have in common."""
