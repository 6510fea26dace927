"""UniNER: distil a large model's open named-entity recognition into a small one, on Ray."""
