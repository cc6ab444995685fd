"""What `toco export` writes: one file a format, named as `--format` names it."""
