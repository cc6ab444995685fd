"""The formats of `toco import`: one module for each value of `--from`. They do not know the data set."""
