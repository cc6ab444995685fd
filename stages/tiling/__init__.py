"""Large images: cut into tiles with labels, and masks of tiles joined again."""
