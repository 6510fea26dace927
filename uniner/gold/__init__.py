"""Gold data sets in the formats that they come in: one reader for building and for evaluating."""
