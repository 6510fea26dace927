"""Gold data to scores: any system against any gold data set."""
