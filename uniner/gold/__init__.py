"""Gold data sets: one reader for all formats, used for training and for evaluation."""
