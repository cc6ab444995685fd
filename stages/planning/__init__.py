"""The plan of a run: what is known about data and machine, measured times, and the settings that follow from them."""
