"""The formats of `toco export`: one module per value of `--format`, named after it."""
