"""The inputs and the output folder of `toco predict`."""
