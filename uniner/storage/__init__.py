"""Files anywhere, stage folders of chunks, model folders."""
