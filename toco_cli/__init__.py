"""The `toco` command: a thin skin over the stages."""
