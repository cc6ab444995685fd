"""The method itself: pure functions and networks. Imports no stage and no data set."""
