"""Questions that only a measurement answers, one file each; nothing imports them."""
