"""Features of a frozen encoder, computed once for all images of a data set."""
