"""What `ray job submit` runs: one thin job a stage, and the pipeline of all."""
