"""Class-agnostic segments of images: from files, superpixels, or a Segment Anything Model (SAM)."""
