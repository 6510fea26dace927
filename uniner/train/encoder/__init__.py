"""Train the encoder: the questions of build, answered by spans of words."""
