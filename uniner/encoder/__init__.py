"""The encoder: a small model that scores all spans of a text for all types in one pass, as GLiNER does.

`words.py` cuts a text into words and token ids, `batches.py` lays texts and types out as arrays, `model.py`
scores them, `spans.py` reads the entities off the scores, `folder.py` reads and writes GLiNER's folders.
torch, transformers and numpy are all it needs.

Source: Zaratiana et al., GLiNER (NAACL 2024), and the format of the library gliner 0.2.
"""
