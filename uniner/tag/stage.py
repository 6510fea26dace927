"""The tag stage: a pool of engines tags the run's passages, chunk by chunk; then the tables are written."""

import asyncio
import logging
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from typing import Any

from rich.console import Console

from uniner.config.schema import Tag
from uniner.errors import UserError
from uniner.gold.catalogue import resolve_group
from uniner.inference.engine_pool import engine_pool
from uniner.inference.fp8_gate import fp8_suffix
from uniner.inference.gpu_sharing import read_sizes
from uniner.records import PASSAGE, Passage, TaggedPassage, from_table
from uniner.runtime import chunk_pipeline
from uniner.runtime.chunk_pipeline import Pool
from uniner.runtime.connection import connected
from uniner.runtime.gpu import require_gpus_here
from uniner.runtime.gpu_models import GPUS, known_gpus
from uniner.runtime.placement import gpu_nodes
from uniner.runtime.stage_context import StageContext
from uniner.storage.chunk_list import ChunkList
from uniner.storage.filesystem import is_remote
from uniner.storage.joined_chunks import join_chunks, read_joined
from uniner.storage.lease import hold_lease
from uniner.storage.manifest import Identity, Manifest, StageTotals
from uniner.storage.model_folders import (
    ENCODER,
    OWN_STAGES,
    StudentFacts,
    calibration_of,
    load_tokenizer,
    model_digest,
    read_calibrations,
)
from uniner.storage.stage_folder import StageFolder
from uniner.tag import interactive
from uniner.tag.estimate import TagTrial, describe, describe_sharing, measure, sample_chunks
from uniner.tag.rule_file import RuleSet, unused_labels_line
from uniner.tag.rules import describe_rules, rules_line, without_rule_figures
from uniner.tag.student import (
    asking_identity,
    check_asking,
    encoder_starter,
    engine_settings,
    entity_rules,
    evaluate_comes_first,
    is_own,
    known_relatives,
    pattern_rules,
    prefilter_address,
    read_facts,
    require_f1_of_8_bits,
    require_trained,
    rules_identity,
    selected_types,
    student_address,
    student_exists,
    tags_by_encoder,
    typed_types,
    unlearnt_line,
    worker_of,
)
from uniner.tag.tables import ENTITIES, TABLES, SurfaceCounts, TablePartWriter, divide_into_parts, write_top
from uniner.tag.template_costs import (
    COMPARED,
    PASSAGES,
    FoundMentions,
    describe_templates,
    found_mentions,
    measure_cost,
)
from uniner.tag.types import TypeSelection, require_sources, unasked_types_line
from uniner.templates import Renderer, make_template

SECTIONS = ("student", "ingest", "engine", "evaluate", "tag")
_CHUNKS, _MOST_CHUNK_PASSAGES = 1_000, 2_048
"""By default a run has at least so many chunks, and a chunk at most so many passages."""
_SURFACES = 10_000
"""Surfaces per type that are counted exactly; beyond, the rarest are dropped from time to time."""

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class TagTables:
    """The tables' own manifest: the settings they were written with, and mentions by type.

    understated_by_at_most: by type, how many mentions of a surface in aggregate.parquet may be missing.
    """

    top_surfaces: int
    entity_table: bool
    partition_by_source: bool
    mentions_by_type: dict[str, int] = field(default_factory=dict)
    understated_by_at_most: dict[str, int] = field(default_factory=dict)

    def serve(self, tag: Tag) -> bool:
        """Tell whether these tables are the wanted ones; an unwanted entity table does no harm."""
        if self.top_surfaces != tag.top_surfaces:
            return False
        wanted = (tag.entity_table, tag.partition_by_source)
        return not tag.entity_table or (self.entity_table, self.partition_by_source) == wanted


def check(context: StageContext) -> None:
    """Check the types, and the student if it exists already, and compare the settings."""
    tag, evaluate, engine = context.sections.tag, context.sections.evaluate, context.sections.engine
    if tag.partition_by_source and not tag.entity_table:
        raise UserError("tag.partition_by_source lays out the entity table; set tag.entity_table=true too")
    check_asking(context)
    student, gold = student_address(context), evaluate.gold
    if tag.calibration or fp8_suffix(engine) or tag.float8_reference:
        gold = resolve_group(evaluate.group, evaluate.data, evaluate.gold)
    evaluate_measures_it = is_own(context) and tag.calibration in gold and tag.student in evaluate.systems
    if tag.calibration and not evaluate_measures_it:
        calibration_of(student, tag.calibration)
    exists = student_exists(context) and not evaluate_comes_first(context)
    if exists and (tag.calibration is None or tag.calibration in read_calibrations(student)):
        facts = read_facts(context)
        types = selected_types(tag, facts, known_relatives(context, facts))
        context.folder.check_identity(_identity(context, facts, types, parents={}))
    if (fp8_suffix(engine) or exists) and not gold:  # with gold, evaluate may still come before tag
        require_f1_of_8_bits(context, student)


def parents(context: StageContext) -> list[str]:
    """Return ingest, and the stages that train this run's models which tag."""
    named = (context.sections.tag.student, context.sections.tag.prefilter)
    return ["ingest", *(OWN_STAGES[name] for name in named if name in OWN_STAGES)]


def run(context: StageContext) -> Manifest:
    """Tag the passages. Returns the manifest."""
    tag, folder, passages = context.sections.tag, context.folder, context.run_folder / "ingest"
    chunks = _chunks(context)
    patterns = pattern_rules(tag)  # as the stage begins: the file may change before it ends
    identity, pool = _prepare(context, chunks)
    manifest = chunk_pipeline.run_stage(
        folder,
        identity,
        chunks,
        read=partial(read_joined, passages),
        pool=pool,
        max_bad_share=context.sections.engine.max_bad_share,
        results=partial(_results, tag, folder, passages, chunks, patterns=patterns),
    )
    if "rules" in manifest.results:
        log.info(f"tag: {rules_line(manifest.results['rules'])}")
    tables = read_tables_manifest(folder)
    if tables is None or not TagTables(**tables).serve(tag):
        log.info("tag: all passages are tagged; rewriting the tables, as their settings changed")
        _write_tables(tag, folder, passages, manifest.chunks)
    return manifest


def estimate(context: StageContext) -> str:
    """Tag a few hundred passages with one engine; they count as done. Returns what the others would take."""
    check(context)
    folder, passages = context.folder, context.run_folder / "ingest"
    chunk_list, engine = _chunks(context), context.sections.engine
    chunks = chunk_list.rows_of_chunk
    with hold_lease(folder), connected():  # the measured chunks are written
        identity, pool = _prepare(context, chunk_list)
        manifest = folder.begin(identity)
        if manifest:
            return f"tag: already done, {manifest.rows:,} passages; nothing is left to estimate"
        existing = folder.chunk_keys() & chunks.keys()
        missing = {key: rows for key, rows in chunks.items() if key not in existing}
        if not missing:
            return f"{folder.url}: all chunks exist; nothing is left to measure, run the stage to complete it"
        if not any(missing.values()):
            return (
                "tag: the chunks that are left have no passages, so there is nothing to measure; look at "
                "ingest's line, or run the stage to complete it"
            )
        keys = sample_chunks(missing)
        log.info(f"tag: measuring {sum(missing[key] for key in keys):,} passages on one engine")
        one = replace(pool, actors=1, min_actors=1)
        summaries = chunk_pipeline.work_on_chunks(folder, keys, partial(read_joined, passages), one)
        trial = measure((time.monotonic(), summary) for summary in summaries)
        sharing = _sharing(context, trial)
        templates = _templates(context, passages, keys)
    return describe(
        trial,
        total=sum(chunks.values()),
        done=sum(chunks[key] for key in existing) + trial.passages,
        engines=engine.actors,
        gpus=engine.gpus,
        usd_per_gpu_hour=engine.usd_per_gpu_hour,
        sharing=sharing,
        templates=templates,
    )


def _templates(context: StageContext, passages: StageFolder, keys: Sequence[str]) -> str:
    """Say what the trial's passages cost by each template; "" for an encoder, and for a remote student,
    whose weights this process would have to fetch."""
    address = student_address(context)
    types = selected_types(context.sections.tag, read_facts(context)).everywhere
    if tags_by_encoder(context) or is_remote(address) or not types:
        return ""
    found: list[FoundMentions] = []
    for key in keys:
        rows = from_table(context.folder.read_chunk(key).table, TaggedPassage)
        texts = from_table(read_joined(passages, key).table.select(PASSAGE.names), Passage)
        found += found_mentions(texts, rows)
    renderer = Renderer(load_tokenizer(address))
    sample = [each for each in found if each.text.strip()][:PASSAGES]
    return describe_templates(
        {name: measure_cost(renderer, name, sample, types) for name in COMPARED}, len(types)
    )


def _sharing(context: StageContext, trial: TagTrial) -> str:
    """Say how many engines should share a GPU; "" where GPUs or the student's sizes are not known."""
    engine, nodes = context.sections.engine, gpu_nodes()
    kinds = {name for node in nodes for name in known_gpus(node.accelerator())}
    shares = bool(kinds) and 0 < engine.gpus <= 1 and not tags_by_encoder(context)
    sizes = read_sizes(student_address(context)) if shares else None
    if sizes is None:
        return ""
    return describe_sharing(
        sizes,
        min(kinds, key=lambda name: GPUS[name].memory),  # of several, what fits the smallest
        trial=trial,
        engine=engine,
        cpus_per_gpu=min(node.resources.get("CPU", 0) / node.resources["GPU"] for node in nodes),
    )


def _chunks(context: StageContext) -> ChunkList:
    """Return the stage's chunks: those of ingest, joined until they have enough passages for a student."""
    chunks = (context.run_folder / "ingest").require_manifest().chunks
    return join_chunks(chunks, _chunk_passages(context, chunks.total_rows))


def _chunk_passages(context: StageContext, passages: int) -> int:
    """Return the least passages of a chunk; 1 leaves ingest's chunks as they are.

    passages: of the run. Where the stage has begun, those of another corpus, before it grew, decided.
    """
    setting, begun = context.sections.tag.chunk_passages, context.folder.read_identity()
    if setting is not None:
        return setting
    if begun is not None:
        return begun.settings["tag"].get("chunk_passages", 1)
    return max(1, min(_MOST_CHUNK_PASSAGES, passages // _CHUNKS))


def tag_text(context: StageContext, text: str) -> None:
    """Tag a text (`-`: standard input) in this process and print it with its entities in colour."""
    text = interactive.read_input(sys.stdin.buffer) if text == "-" else interactive.require_text(text)
    tagger, types, _ = _text_tagger(context)
    wait = ", about half a minute" if isinstance(tagger, interactive.TextTagger) else ""
    log.info(f"tag: loading {student_address(context)}{wait}")
    interactive.print_text(text, asyncio.run(tagger.tag_once(text, types)), Console())


def serve_page(context: StageContext, port: int) -> None:
    """Serve a page on 127.0.0.1 that tags typed text, until the command is stopped. Needs Gradio."""
    tagger, types, select = _text_tagger(context)
    interactive.serve_page(tagger, types.everywhere, select, port)


def _text_tagger(
    context: StageContext,
) -> tuple[
    interactive.TextTagger | interactive.EncoderTextTagger,
    TypeSelection,
    Callable[[Sequence[str]], TypeSelection],
]:
    """Return what tags a text, the types of the config, and how typed ones are asked."""
    check_asking(context)
    require_gpus_here(context.sections.engine.gpus)
    facts = read_facts(context)
    rules, relatives = entity_rules(context, facts), known_relatives(context, facts)
    types = selected_types(context.sections.tag, facts, relatives)
    select = partial(typed_types, context.sections.tag, facts, relatives)
    if line := unlearnt_line(context.sections.tag, types, facts, relatives):
        log.warning(f"tag: {line}")
    _warn_of_unasked_types(context, types)
    if facts.template == ENCODER:
        return interactive.EncoderTextTagger(encoder_starter(context, rules, types), rules), types, select
    if context.sections.tag.prefilter:
        log.warning("tag: a text is asked all types; tag.prefilter chooses among them only in a run")
    tagger = interactive.TextTagger(
        student_address(context),
        make_template(facts.template, facts.group_types),
        context.sections.ingest.max_tokens,
        rules,
        engine_settings(context),
    )
    return tagger, types, select


def _prepare(context: StageContext, chunks: ChunkList) -> tuple[Identity, Pool]:
    """Return the stage's identity, and the pool of its engines."""
    tag, student, passages = context.sections.tag, student_address(context), context.run_folder / "ingest"
    require_trained(context)
    facts = read_facts(context)
    relatives = known_relatives(context, facts)
    types = selected_types(tag, facts, relatives)
    if facts.base == student and facts.template != ENCODER:
        log.info(f"tag: {student} does not say how it is asked; asking by the template {facts.template!r}")
    if not (tag.types or tag.types_file):
        asked = types.everywhere
        log.info(f"tag: asking for the student's {len(asked)} most frequent types: {', '.join(asked)}")
    elif line := unlearnt_line(tag, types, facts, relatives):
        log.warning(f"tag: {line}")
    _warn_of_unasked_types(context, types)
    keys = [chunk.key for chunk in passages.require_manifest().chunks]
    sources = (set(passages.read_columns(key, ["source"])["source"].unique().to_pylist()) for key in keys)
    require_sources(types.of_source, sources)
    digest = model_digest(student)
    require_f1_of_8_bits(context, student)
    worker, questions = worker_of(context, facts, types, entity_rules(context, facts))
    manifest = passages.require_manifest()
    parents: dict[str, str | None] = {"ingest": manifest.digest, "student": digest}
    if tag.prefilter:
        parents["prefilter"] = model_digest(prefilter_address(context))
    identity = _identity(context, facts, types, parents)
    pool = engine_pool(context.sections.engine, worker, questions * chunks.total_rows / max(1, len(chunks)))
    if tag.rules:
        pool = replace(pool, totals=without_rule_figures)
    return identity.with_earlier_parent("ingest", manifest.grown_from), pool


def _warn_of_unasked_types(context: StageContext, types: TypeSelection) -> None:
    """Say which types of tag.min_score_of_type and tag.rules a student, known only now, is not asked for."""
    tag = context.sections.tag
    for line in (
        unasked_types_line(tag.min_score_of_type, types),
        unused_labels_line(pattern_rules(tag), types.all()),
    ):
        if line:
            log.warning(line)


def _identity(
    context: StageContext, facts: StudentFacts, types: TypeSelection, parents: dict[str, str | None]
) -> Identity:
    ingest = (context.run_folder / "ingest").manifest()
    chunk_passages = _chunk_passages(context, ingest.rows if ingest else 0)
    return Identity(
        stage="tag",
        settings={
            **asking_identity(context, facts),
            "tag": {
                "types": list(types.everywhere),
                "types_of_source": types.of_source,
                **({"asked_by": dict(types.words)} if types.words else {}),
                **rules_identity(entity_rules(context, facts)),
                **({"chunk_passages": chunk_passages} if chunk_passages > 1 else {}),
            },
        },
        parents=parents,  # the student counts by its content: its folder may be moved
    )


def read_tables_manifest(folder: StageFolder) -> dict[str, Any] | None:
    """Return the tables' manifest; None where they are not written."""
    return folder.read_sealed_json(TABLES, "delete that file and run `uniner tag CONFIG` again")


def _results(
    tag: Tag,
    folder: StageFolder,
    passages: StageFolder,
    chunks: ChunkList,
    totals: StageTotals,
    patterns: RuleSet | None = None,
) -> dict[str, Any]:
    """Check that each chunk has a row for each of its passages, and write the tables."""
    made = totals.chunks()
    if not chunks.same_rows(made):
        given, rows = chunks.rows_of_chunk, made.rows_of_chunk
        differing = sorted(key for key in given.keys() | rows.keys() if given.get(key) != rows.get(key))
        key = differing[0]
        raise RuntimeError(
            f"{folder.url}: chunk {key} has {rows.get(key)} rows for {given.get(key)} passages; "
            f"{len(differing):,} such chunks"
        )
    _write_tables(tag, folder, passages, made)
    results: dict[str, Any] = {"input": {"chunks": len(chunks), "rows": chunks.total_rows}}
    if patterns:
        results["rules"] = describe_rules(patterns, totals.figures, totals.examples)
    return results


def _write_tables(tag: Tag, folder: StageFolder, passages: StageFolder, chunks: ChunkList) -> None:
    """Write the tables that people query, and their manifest last."""
    # Without a manifest first, so that a run killed here does not pass half a table off as whole.
    folder.remove([TABLES])
    if (folder / ENTITIES).tree():
        (folder / ENTITIES).remove_all()  # of a killed run, or in another layout
    chunks = chunks.sorted_by_key()
    writer = TablePartWriter(
        tagged=folder,
        passages=passages,
        keys=tuple(chunks.keys.to_pylist()),
        entity_table=tag.entity_table,
        by_source=tag.partition_by_source,
    )
    surfaces = SurfaceCounts(max(_SURFACES, 10 * tag.top_surfaces))
    parts = divide_into_parts(chunks.table["rows"].to_pylist())
    for part in chunk_pipeline.gather(parts, writer.write):
        surfaces.add(part)
    write_top(folder, surfaces, tag.top_surfaces)
    tables = TagTables(
        top_surfaces=tag.top_surfaces,
        entity_table=tag.entity_table,
        partition_by_source=tag.partition_by_source,
        mentions_by_type=dict(surfaces.mentions.most_common()),
        understated_by_at_most=dict(surfaces.understated),
    )
    folder.write_sealed_json(TABLES, asdict(tables))
