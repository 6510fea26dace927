"""A run with tagged passages, whose truth is known."""

import json
from dataclasses import dataclass
from pathlib import Path

import pytest

from uniner.records import PASSAGE, TAGGED_PASSAGE, Passage, TaggedEntity, TaggedPassage, to_table
from uniner.storage.manifest import Identity, Manifest
from uniner.storage.stage_folder import Chunk, run_folder


@dataclass(frozen=True)
class Run:
    """A run's config file and folder."""

    config: str
    folder: Path

    def rows(self, name):
        return [json.loads(line) for line in (self.folder / "review" / name).read_text().splitlines()]


def tagged_entity(text, mention, type_name, score=0.9, grounding="exact", offset=0):
    """A tagged entity at the mention's first place in the text."""
    start = text.index(mention)
    return TaggedEntity(
        text=mention,
        type=type_name,
        start=offset + start,
        end=offset + start + len(mention),
        score=score,
        grounding=grounding,
    )


@pytest.fixture
def entity():
    """Return the function that makes a tagged entity at a mention's first place in a text."""
    return tagged_entity


@pytest.fixture
def passages():
    """Return a function that makes passages with a right person and a wrong city, every third unsure."""

    def make(count=24):
        made = []
        for number in range(count):
            text = f"Ann{number:02d} met Bonn{number:02d} \U0001f600 in Rome{number:02d}.\r\nDone."
            sure = 0.55 if number % 3 == 0 else 0.98
            found = [
                tagged_entity(text, f"Ann{number:02d}", "person", 0.99),
                tagged_entity(text, f"Rome{number:02d}", "person", sure),
            ]
            made.append((text, "news" if number % 2 else "web", found))
        return made

    return make


@pytest.fixture
def tagged_run(tmp_path):
    """Return a function that writes a run with ingest and tag. passages: (text, source, entities) each."""

    def write(passages, name="r", rows=4, tag_rows=None, settings=""):
        records = [
            Passage(passage_id=f"p{number:03d}", doc_id=f"d{number:03d}", passage_index=0, char_start=0,
                    char_end=len(text), text=text, n_tokens=9, source=source)
            for number, (text, source, _) in enumerate(passages)
        ]  # fmt: skip
        tagged = [
            TaggedPassage(doc_id=each.doc_id, passage_id=each.passage_id, char_start=0, outcome="ok",
                          entities=tuple(entities), failed_types=())
            for each, (_, _, entities) in zip(records, passages, strict=True)
        ]  # fmt: skip
        folder = run_folder(str(tmp_path / "runs"), name)
        asked = {"tag": {"types": ["person", "city"], "types_of_source": {}}}
        for stage, all_rows, schema in (("ingest", records, PASSAGE), ("tag", tagged, TAGGED_PASSAGE)):
            identity, stage_folder = Identity(stage=stage, settings=asked), folder / stage
            stage_folder.begin(identity)
            count, size = rows, (tag_rows or rows) // rows if stage == "tag" else 1
            keys = {
                f"00000-{start // count:07d}" + (f"x{size}" if size > 1 else ""): all_rows[
                    start : start + count * size
                ]
                for start in range(0, len(all_rows), count * size)
            }
            summaries = [
                stage_folder.write_chunk(Chunk(key, to_table(part, schema))) for key, part in keys.items()
            ]
            stage_folder.write_manifest(Manifest.of(identity, summaries, 1.0))
        config = tmp_path / f"{name}.toml"
        config.write_text(
            f'[run]\nroot = "{tmp_path / "runs"}"\nname = "{name}"\n[student]\nbase = "{tmp_path}"\n'
            f"[review]\n{settings}\n"
        )
        return Run(str(config), tmp_path / "runs" / name)

    return write
