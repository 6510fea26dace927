"""Write the quickstart's corpus, recorded teacher, encoder base, and gold documents with unseen names."""

import gzip
import hashlib
import io
import itertools
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from random import Random
from typing import Any

import zstandard

from uniner.config.schema import Config
from uniner.config.teachers import RecordingTeacher
from uniner.passages import cut_passages
from uniner.quickstart.corpus import MadeUpDocument, documents
from uniner.quickstart.domains import DOMAINS
from uniner.quickstart.encoder_base import write_encoder_base
from uniner.quickstart.replies import reply
from uniner.quickstart.type_replies import type_replies
from uniner.storage.filesystem import explained
from uniner.storage.folder import Folder
from uniner.storage.model_folders import load_tokenizer

BASE = str(Path(__file__).parent / "base")
DOCUMENTS, HELD_OUT = 2_400, 120
LONGEST_HELD_OUT = 500  # characters: a gold document is one passage, never cut
SHARDS = 3
SENTENCES = (2, 4)
_MADE_WITH = "made_with.json"


def prepare(config: Config) -> Config:
    """Write the corpus and the encoder's base under run.root. Returns the config with their addresses."""
    folder = Folder(config.run.root) / "quickstart-corpus"
    encoder_base = Folder(config.run.root) / "quickstart-encoder-base"
    with explained(folder.url):
        write(folder, DOCUMENTS, HELD_OUT, config.ingest.max_tokens)
        write_encoder_base(encoder_base, BASE)
    return config.model_copy(
        update={
            "student": config.student.model_copy(update={"base": BASE}),
            "encoder": config.encoder.model_copy(update={"base": encoder_base.url}),
            "ingest": config.ingest.model_copy(update={"shards": [folder.path("shard-*.jsonl.zst")]}),
            "teacher": RecordingTeacher(path=folder.path("teacher.jsonl.gz")),
            "evaluate": config.evaluate.model_copy(
                update={"gold": {"held-out": folder.path("heldout.jsonl")}}
            ),
        }
    )


def write(folder: Folder, documents_count: int, held_out_count: int, max_tokens: int, seed: int = 0) -> None:
    """Write shards, recording and gold documents, unless the same files exist.

    `shard-*.jsonl.zst` has the Pile's layout. `teacher.jsonl.gz` has a reply for each passage of at most
    max_tokens tokens, and for each type that it is asked to describe. `heldout.jsonl` has documents whose
    names occur in no shard.
    """
    made_with = {
        "documents": documents_count,
        "held_out": held_out_count,
        "max_tokens": max_tokens,
        "seed": seed,
        # Another tokenizer would cut passages that the recording does not have.
        "tokenizer": hashlib.sha256((Path(BASE) / "tokenizer.json").read_bytes()).hexdigest()[:16],
        "types": hashlib.sha256(json.dumps([*type_replies()]).encode()).hexdigest()[:16],
    }
    if folder.read_json(_MADE_WITH) == made_with:
        return
    corpus = list(documents(DOMAINS, documents_count, seed, "train", SENTENCES))
    candidates = documents(DOMAINS, 2 * held_out_count, seed, "heldout", SENTENCES)
    short = (document for document in candidates if len(document.text) <= LONGEST_HELD_OUT)
    lay_out(folder, corpus, itertools.islice(short, held_out_count), max_tokens, seed)
    folder.write_json(_MADE_WITH, made_with)


def lay_out(
    folder: Folder,
    corpus: Sequence[MadeUpDocument],
    held_out: Iterable[MadeUpDocument],
    max_tokens: int,
    seed: int,
) -> None:
    """Write the same files as `write`, for given documents."""
    for shard in range(SHARDS):
        rows = (
            {"text": document.text, "meta": {"pile_set_name": document.source}}
            for document in corpus[shard::SHARDS]
        )
        folder.write(f"shard-{shard}.jsonl.zst", zstandard.compress(_lines(rows)))
    folder.write("teacher.jsonl.gz", gzip.compress(_lines(_recording(corpus, max_tokens, seed)), 1, mtime=0))
    folder.write("heldout.jsonl", _lines(map(_gold, held_out)))


def _gold(document: MadeUpDocument) -> dict[str, Any]:
    entities = [vars(mention) for mention in document.mentions]
    return {"id": document.doc_id, "text": document.text, "entities": entities}


def _recording(corpus: Iterable[MadeUpDocument], max_tokens: int, seed: int) -> Iterable[dict[str, Any]]:
    tokenizer = load_tokenizer(BASE)
    for document in corpus:
        random = Random(f"{seed}/{document.doc_id}")
        for piece in cut_passages(document.text, tokenizer, max_tokens):
            inside = [
                mention
                for mention in document.mentions
                if piece.start <= mention.start and mention.end <= piece.end
            ]
            text = document.text[piece.start : piece.end]
            yield {"passage": text, "reply": reply(text, inside, random)}
    for question, answer in type_replies():
        yield {"passage": question, "reply": answer}


def _lines(rows: Iterable[dict[str, Any]]) -> bytes:
    sink = io.StringIO()
    for row in rows:
        sink.write(json.dumps(row, ensure_ascii=False) + "\n")
    return sink.getvalue().encode()
