"""The parts of `toco report` (charts, gallery, over-smoothing, HTML page); `toco view` uses the gallery's pictures."""
