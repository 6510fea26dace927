"""The describe stage: the teacher describes the most frequent types and names synonyms, for build."""
