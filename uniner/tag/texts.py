"""The Python door: a list of texts tagged as the tag stage tags passages, by the same worker.

A generative student runs in an actor of Ray: where its engine dies, only the actor's process ends. An encoder
runs in this process, which takes no Ray, unless this process uses Ray already.
"""

import logging
import math
import os
import tempfile
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from types import TracebackType
from typing import Any, Self

from uniner.config.loader import checked
from uniner.config.schema import EngineSection
from uniner.errors import UserError
from uniner.labels import has_surrogate, is_visible, stripped
from uniner.records import PASSAGE, Passage, TaggedPassage, from_table, to_table
from uniner.runtime.gpu import require_gpus_here
from uniner.runtime.held_worker import HeldWorker, WorkerHere, uses_ray
from uniner.runtime.stage_context import StageContext
from uniner.storage.filesystem import explained
from uniner.storage.folder import Folder
from uniner.storage.model_folders import (
    ENCODER_CONFIG,
    FACTS,
    OWN_STAGES,
    load_tokenizer,
    model_address,
    own_model,
    require_model,
)
from uniner.storage.stage_folder import Chunk
from uniner.tag.interactive import cut_text, whole_text
from uniner.tag.student import (
    check_asking,
    entity_rules,
    is_own,
    known_relatives,
    read_facts,
    selected_types,
    student_address,
    tags_by_encoder,
    unlearnt_line,
    worker_of,
)
from uniner.tag.tagged_texts import TaggedTexts
from uniner.tag.tagger import Tagger

_CHUNK_PASSAGES = 1_024
"""Passages given to a worker at once, and those left of their last text."""
_SECTIONS = ("student", "ingest", "engine", "evaluate", "tag")
_SETTABLE = ("student", "ingest", "engine", "tag")
_DECIDING = {"student": {"template", "group_types", "max_tokens"}, "ingest": {"max_tokens"}}
"""What of these sections counts for a generative student; for an encoder nothing does."""
_OF_RUNS = {
    f"tag.{name}"
    for name in ("types_of_source", "chunk_passages", "entity_table", "top_surfaces", "partition_by_source")
}
_ARGUMENTS = {"tag.student": "student", "tag.types": "types"}
_NO_RUN = (os.path.join(tempfile.gettempdir(), "uniner-no-run"), "texts")  # noqa: PTH118
"""Root and name of the run of a model that is in none; nothing is there."""
_EXAMPLE = 'such as ["Ann lives in Bonn."]'

log = logging.getLogger(__name__)


def tag_texts(
    texts: Iterable[str],
    student: "str | os.PathLike[str]",
    types: Iterable[str] | None = None,
    *,
    settings: Mapping[str, Any] | None = None,
) -> TaggedTexts:
    """Tag texts, and let go of the model. To tag several times, see `open_tagger`, which has the arguments.

    texts: any number, such as a list or a column of a DataFrame.

    Raises:
        UserError: an argument or a setting is wrong, or the model cannot be loaded.
    """
    given = _given_texts(texts)
    with open_tagger(student, types, settings=settings) as tagger:
        return tagger(given)


def open_tagger(
    student: "str | os.PathLike[str]",
    types: Iterable[str] | None = None,
    *,
    settings: Mapping[str, Any] | None = None,
) -> "OpenTagger":
    """Load a model that tags lists of texts until it is closed: `tagger(texts)`, or as a context manager.

    student: the folder of a student or encoder (local or s3://), a run's folder, or a hub name; whatever
    tag.student takes. types: unset, the student's own. settings: of [tag], [engine], [ingest] and [student],
    such as {"tag.min_score": 0.5}; `uniner settings tag` lists them. Without engine.gpus it takes a GPU where
    there is one.

    Raises:
        UserError: an argument or a setting is wrong, or the model cannot be loaded.
    """
    named, given = _given_student(student), _given_settings(settings)
    tree = _tree(named, _given_types(types), given)
    context = _context(tree)
    by_encoder, in_ray = tags_by_encoder(context), uses_ray()
    if not is_own(context):
        require_model(student_address(context), ENCODER_CONFIG if by_encoder else "config.json", "student")
    if by_encoder and (idle := sorted(name for name in given if name.partition(".")[0] in _DECIDING)):
        raise UserError(f"settings: {idle[0]} decides nothing for an encoder; leave it out")
    facts = read_facts(context)
    if not (facts.types or tree["tag"]["types"] or given.keys() & {"tag.types_file", "tag.top_types"}):
        raise UserError(
            f'types: {named} lists no types of its own; name some, such as types=["person", "city"]'
        )
    check_asking(context)
    context = _context(_filled(tree, facts.max_tokens, by_encoder=by_encoder, in_ray=in_ray))
    rules, relatives = entity_rules(context, facts), known_relatives(context, facts)
    selected = selected_types(context.sections.tag, facts, relatives)
    if line := unlearnt_line(context.sections.tag, selected, facts, relatives):
        log.warning(f"tag: {line}")
    make, _ = worker_of(context, facts, selected, rules)
    tokenizer = None if by_encoder else load_tokenizer(student_address(context), "student")
    engine, max_tokens = context.sections.engine, context.sections.ingest.max_tokens
    worker = _start(make, engine, student_address(context), here=by_encoder and not in_ray)
    return OpenTagger(worker, engine.actors, tokenizer, max_tokens)


def _start(make: Callable[[], Tagger], engine: EngineSection, address: str, *, here: bool) -> HeldWorker:
    if here:
        require_gpus_here(engine.gpus)
        return WorkerHere(make)
    from uniner.runtime.actor_workers import ActorWorkers  # importing Ray takes a second

    log.info(f"tag: loading {address}")
    return ActorWorkers("tag", make, actors=engine.actors, cpus=engine.cpus, gpus=engine.gpus)


class OpenTagger:
    """A loaded model that tags lists of texts. Closing it, or deleting its last name, frees its memory."""

    def __init__(self, worker: HeldWorker, workers: int, tokenizer: Any | None, max_tokens: int):
        """tokenizer: cuts texts into passages of at most max_tokens; None leaves each text whole."""
        self._worker, self._workers = worker, workers
        self._tokenizer, self._max_tokens = tokenizer, max_tokens
        self._finalizer = weakref.finalize(self, worker.close)

    def __call__(self, texts: Iterable[str]) -> TaggedTexts:
        """Tag texts. Returns them with their entities, in order.

        Raises:
            UserError: texts is not a list of texts, the tagger is closed, or its process died.
        """
        given = _given_texts(texts)
        if not self._finalizer.alive:
            raise UserError("the tagger is closed; open another with uniner.open_tagger(student, types)")
        of_text = [self._passages(text, str(number)) for number, text in enumerate(given)]
        chunks = [*_chunks(of_text, self._workers)]
        done = self._worker.work(chunks)
        return TaggedTexts(given, [row for chunk in done for row in from_table(chunk.table, TaggedPassage)])

    def _passages(self, text: str, doc_id: str) -> list[Passage]:
        if self._tokenizer is None:  # an encoder reads a long text in windows
            return whole_text(text, doc_id)
        return cut_text(text, self._tokenizer, self._max_tokens, doc_id)

    def close(self) -> None:
        """Let go of the model. A Ray that was started for it ends; one that was connected stays."""
        self._finalizer()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _chunks(of_text: Sequence[Sequence[Passage]], workers: int) -> Iterator[Chunk]:
    """Yield chunks of whole texts, so that the rules on overlaps see all of a text's passages."""
    passages = sum(map(len, of_text))
    enough = max(1, min(_CHUNK_PASSAGES, math.ceil(passages / workers)))
    waiting: list[Passage] = []
    for number, own in enumerate(of_text):
        waiting += own
        if waiting and (len(waiting) >= enough or number == len(of_text) - 1):
            yield Chunk(f"{number:09d}", to_table(waiting, PASSAGE))
            waiting = []


def _given_texts(texts: Iterable[str]) -> list[str]:
    if isinstance(texts, str | bytes | Mapping) or not isinstance(texts, Iterable):
        raise UserError(f"texts must be a list of texts, {_EXAMPLE}, not {_named(texts)}")
    if hasattr(texts, "columns"):  # which iterates over its columns' names
        raise UserError(
            f"texts is a table ({type(texts).__name__}); give a column of it, such as table['text']"
        )
    given = _listed(texts, "texts", _EXAMPLE)
    if not given:
        raise UserError(f"texts is empty; give at least one text, {_EXAMPLE}")
    for number, text in enumerate(given):
        if not isinstance(text, str):
            raise UserError(f"texts[{number}] is {_named(text)}, not a text; leave it out, or give a str")
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise UserError(
                f"texts[{number}] has half a character (a surrogate) at {error.start:,}; decode the text "
                "again, for instance with errors='replace'"
            ) from None
    return [str(text) for text in given]  # numpy's are of a class of their own


def _given_types(types: Iterable[str] | None) -> list[str]:
    if types is None:
        return []
    example = 'such as types=["person", "city"]'
    if isinstance(types, str | bytes | Mapping) or not isinstance(types, Iterable):
        raise UserError(f"types must be a list of types, {example}, not {_named(types)}")
    given = _listed(types, "types", example)
    if not given:
        raise UserError(f"types is empty; name some, {example}, or leave it out for the student's own")
    for number, name in enumerate(given):
        if not isinstance(name, str) or name != stripped(name) or not _is_line(name):
            raise UserError(
                f"types[{number}] is {_named(name)}, not a type; give a line in visible characters, without "
                f"blanks around it, {example}"
            )
    return given


def _listed(values: Iterable[Any], argument: str, example: str) -> list[Any]:
    try:
        return list(values)
    except TypeError:  # numpy's arrays of no dimension
        raise UserError(f"{argument} must be a list, {example}, not {_named(values)}") from None


def _is_line(name: str) -> bool:
    """Tell whether a name is one line of visible characters, each whole."""
    return is_visible(name) and len(name.splitlines()) == 1 and not has_surrogate(name)


def _given_student(student: "str | os.PathLike[str]") -> str:
    if (
        not isinstance(student, str | os.PathLike)
        or not isinstance(os.fspath(student), str)
        or not _is_line(os.fspath(student))
    ):
        raise UserError(
            f"student must be a folder or a hub name, such as runs/news/train/student, not {_named(student)}"
        )
    return os.fspath(student)


def _given_settings(settings: Mapping[str, Any] | None) -> Mapping[str, Any]:
    example = 'such as settings={"tag.min_score": 0.5}'
    if settings is not None and not isinstance(settings, Mapping):
        raise UserError(f"settings must be a dictionary, {example}, not {_named(settings)}")
    for name in settings or {}:
        section, _, key = str(name).partition(".")
        if name in _ARGUMENTS:
            raise UserError(f"settings: {name} is the argument {_ARGUMENTS[name]}; give it there")
        if section in _DECIDING and key.partition(".")[0] not in _DECIDING[section]:
            raise UserError(
                f"settings: {name} decides nothing for texts in a list; leave it out (of [{section}] these "
                f"count: {', '.join(sorted(_DECIDING[section]))})"
            )
        if ".".join(str(name).split(".")[:2]) in _OF_RUNS:
            raise UserError(f"settings: {name} is for runs, not for texts in a list; leave it out")
        if section not in _SETTABLE or not key:
            raise UserError(
                f"settings: {name!r} is not a setting of [{'], ['.join(_SETTABLE)}]; name one with its "
                f"section, {example}"
            )
    return settings or {}


def _named(value: Any) -> str:
    text = repr(value)
    return f"{text if len(text) <= 60 else text[:57] + '...'} ({type(value).__name__})"


def _context(tree: Mapping[str, Any]) -> StageContext:
    return StageContext.of(checked(tree), "tag", _SECTIONS)


def _tree(student: str, types: Sequence[str], settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return the sections of a config that tags with a model, as its file would have them."""
    (root, name), student = _place(student)
    tree: dict[str, Any] = {"run": {"root": root, "name": name}, "student": {"base": student}, "tag": {}}
    for setting, value in settings.items():
        *sections, key = setting.split(".")
        part = tree
        for section in sections:
            part[section] = dict(found) if isinstance(found := part.get(section, {}), Mapping) else found
            part = part[section]
            if not isinstance(part, dict):
                raise UserError(
                    f"settings: {setting}: {section} is a value, not a section; give one of the two"
                )
        part[key] = value
    tree["tag"] |= {"student": student, "types": list(types)}
    return tree


def _place(student: str) -> tuple[tuple[str, str], str]:
    """Return the run that a model is in, as root and name, and what tag.student says of it.

    A run's folder means its student, else its encoder.
    """
    address = model_address(student).rstrip("/") or "/"
    for own in OWN_STAGES:
        with explained(address):
            trained = own_model(Folder(address), own).exists(FACTS)
        if trained:
            root, _, name = address.rpartition("/")
            return (root, name), own
    if address in OWN_STAGES:
        raise UserError(
            f"student: there is no folder {student} here; name a model's folder, such as "
            "runs/news/train/student"
        )
    return _NO_RUN, address


def _filled(tree: Mapping[str, Any], learnt_tokens: int, *, by_encoder: bool, in_ray: bool) -> dict[str, Any]:
    """Add what the settings leave open: the length learnt, a GPU where there is one, else this machine's
    cores."""
    import torch

    given: Mapping[str, Any] = tree.get("engine", {})
    gpus = given.get("gpus")
    if gpus is None:
        gpus = int(_cluster_has_gpus() if in_ray else torch.cuda.is_available())
    engine: dict[str, Any] = {"gpus": gpus}
    if not gpus:
        engine |= {"dtype": "float32", "block_size": 32}
        if not in_ray:
            engine["cpus"] = torch.get_num_threads() if by_encoder else max(2, os.cpu_count() or 2)
    student = {} if by_encoder else {"max_tokens": learnt_tokens}
    return {**tree, "engine": {**engine, **given}, "student": {**student, **tree["student"]}}


def _cluster_has_gpus() -> bool:
    from uniner.runtime.actor_workers import has_gpus  # importing Ray takes a second

    return has_gpus()
