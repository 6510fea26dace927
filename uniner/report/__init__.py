"""What a run did, for people: a table in the terminal and a self-contained HTML page."""
