"""The parts of `toco report`: charts, the gallery, over-smoothing, and the page that shows them."""
