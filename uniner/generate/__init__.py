"""The generate stage: passages of named domains, written by the teacher, where there is no corpus of them."""
