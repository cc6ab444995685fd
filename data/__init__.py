"""Data: readers that turn a folder into one `Dataset`, picture files, training views, the sample set."""
