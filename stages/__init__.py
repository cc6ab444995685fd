"""The pipeline, one file a stage, in the order in which they run; the method itself is in `stages.toco`."""
