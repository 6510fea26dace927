"""The model folders that stages hand on: the base, and the student with the facts of its training."""

import functools
import hashlib
import json
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from uniner.errors import UserError
from uniner.storage.filesystem import absolute, explained, is_remote, read_part
from uniner.storage.folder import Folder
from uniner.templates import TEMPLATES

FACTS, CARD, CALIBRATION = "uniner.json", "README.md", "calibration.json"
ENCODER_CONFIG = "gliner_config.json"
"""The file that makes a folder an encoder's, in GLiNER's format."""
ENCODER = "encoder"
"""The template of an encoder's facts: it is asked for types alone, by no question."""
ENCODER_THRESHOLD = 0.5
"""Lowest score of an encoder's mentions where no better one is known, as in GLiNER."""
OWN_STAGES = {"student": "train", "encoder": "train-encoder"}
"""The stage that trains each of a run's models; the model's folder in the stage's has the model's name."""
_NOT_LISTED = frozenset({FACTS, CARD, CALIBRATION})
"""Files of a student without a digest in its facts: the facts themselves, and what evaluate writes."""
_END_BYTES = 1 << 20
_READERS = 4
RELEASED_TEMPLATES = {
    "UniNER-7B-type": "type",
    "UniNER-7B-type-sup": "type",
    "UniNER-7B-definition": "definition",
    "UniNER-7B-all": "type",
}
"""The templates of the models that the paper's authors released, by the last part of their names."""
_OF_NAMES = "sentence-transformers/all-MiniLM-L6-v2"
_BASES = {
    "encoder.base": "answerdotai/ModernBERT-base",
    "build.near_synonym_encoder": _OF_NAMES,
    "tag.nearest_encoder": _OF_NAMES,
}
"""Settings of another kind of model than a generative one, each with an example."""
_HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")


@dataclass(frozen=True, kw_only=True)
class StudentFacts:
    """What a student's `uniner.json` says: how it was trained to be asked.

    types: the most frequent types of its training set, most frequent first. files: the SHA-256 of the
    student's files; empty for a student that was not written here. float8: it was trained with train.float8.
    threshold: of an encoder, the score above which its mentions were best on validation passages.
    """

    template: str
    max_tokens: int
    base: str
    types: tuple[str, ...]
    threshold: float | None = None
    group_types: int = 5
    files: Mapping[str, str] = field(default_factory=dict)
    float8: bool = False

    def as_dict(self) -> dict[str, Any]:
        """Return what is written, and counts as the student's content. float8 and threshold are left out
        where they say nothing, as in students from before them."""
        absent = {name for name in ("float8", "threshold") if not getattr(self, name)}
        return {name: value for name, value in asdict(self).items() if name not in absent}


def own_model(run: Folder, name: str) -> Folder:
    """Return the folder of a model that a run trains, by its name in `OWN_STAGES`."""
    return run / OWN_STAGES[name] / name


def is_encoder(address: str) -> bool:
    """Tell whether a model is an encoder in GLiNER's format: by its folder's files, or by a hub name's words,
    such as urchade/gliner_medium-v2.1."""
    if _HUB_NAME.fullmatch(address) and not Path(address).expanduser().exists():
        return "gliner" in address.lower()
    with explained(address):
        return Folder(address).exists(ENCODER_CONFIG)


def model_address(name: str) -> str:
    """Return a model's address: a folder's absolute path, an s3:// address, or the hub name as it is."""
    return name if is_remote(name) or not Path(name).expanduser().exists() else absolute(name)


def require_model(name: str, config_file: str = "config.json", setting: str = "") -> None:
    """Check that a name is a model folder with that file, or has the form of a hub name.

    setting: that names it, for the message.

    Raises:
        UserError: where it is neither.
    """
    if not is_remote(name) and not Path(name).expanduser().exists() and _HUB_NAME.fullmatch(name):
        return  # transformers and vLLM fetch it from the hub
    with explained(name):
        exists = Folder(name).exists(config_file)
    if not exists:
        where = f"{setting}: {name}" if setting else name
        kind, right = "Hugging Face", _BASES.get(setting, "Qwen/Qwen3-0.6B")
        if config_file == ENCODER_CONFIG:
            kind, right = "GLiNER", "urchade/gliner_medium-v2.1"
        raise UserError(
            f"{where} is not a model folder (no {config_file}); name a {kind} folder or a hub name, such as "
            f"{right}"
        )


@contextmanager
def loading(name: str, setting: str = "") -> Iterator[None]:
    """Turn what transformers raises for a folder or name that is not a model into one line.

    setting: that names it, if one does.
    """
    try:
        with explained(name):
            yield
    except (OSError, ValueError, TypeError, LookupError, ImportError) as error:
        raise _cannot_load(name, setting, error) from None
    except Exception as error:
        if type(error) is not Exception:  # which tokenizers raises for a file that it cannot read
            raise
        raise _cannot_load(name, setting, error) from None


def _cannot_load(name: str, setting: str, error: Exception) -> UserError:
    reason = " ".join(str(error).split())[:200]
    if not is_remote(name) and not Path(name).expanduser().exists():
        reason = f"there is no such folder here, and the hub says: {reason}"
    return UserError(f"{setting}{' ' if setting else ''}{name} cannot be loaded as a model: {reason}")


def require_end_token(name: str, tokenizer: Any) -> None:
    """Refuse a generative model whose answers could not end. name: of the model.

    Raises:
        UserError: its tokenizer has no end token.
    """
    if tokenizer.eos_token_id is None:
        raise UserError(
            f"{name}: the tokenizer has no end-of-sequence token, so no answer would end; "
            'set eos_token in its tokenizer_config.json, such as "</s>"'
        )


def require_text_encoder(name: str, config: Any) -> None:
    """Refuse a base whose words see only those before them. name: of the base. config: of transformers.

    Raises:
        UserError: it is no text encoder.
    """
    from transformers import MODEL_FOR_MASKED_LM_MAPPING

    if type(config) not in MODEL_FOR_MASKED_LM_MAPPING:
        raise UserError(
            f"encoder.base {name}: {config.model_type} is no text encoder, whose words see those after them "
            "too; name a BERT, DeBERTa, ModernBERT or XLM-R, such as encoder.base=answerdotai/ModernBERT-base"
        )


def read_text_encoder(name: str, place: str) -> Any:
    """Return the config of the encoder's base. place: its local folder or hub name.

    Raises:
        UserError: it cannot be read, or is no text encoder.
    """
    from transformers import AutoConfig

    with loading(name, "encoder.base"):
        config = AutoConfig.from_pretrained(place)
    require_text_encoder(name, config)
    return config


def model_digest(name: str) -> str:
    """Return a model's digest; for a hub name the name itself. A copied folder keeps its digest.

    A student's is that of its facts, which list its files' digests; another folder's is over its files'
    names, sizes and last MB. The ends suffice: training changes every weight.
    """
    folder = Folder(name)
    facts = find_student_facts(name)
    if facts and facts.files:
        return hashlib.sha256(json.dumps(facts.as_dict(), sort_keys=True).encode()).hexdigest()[:16]
    # evaluate adds these two to a student; the model stays the same.
    files = {file: size for file, size in folder.sizes().items() if file not in (CARD, CALIBRATION)}
    if not files:
        return name
    digest = hashlib.sha256()
    for file, size in sorted(files.items()):
        digest.update(f"{file} {size} ".encode())
        digest.update(read_part(folder.path(file), max(0, size - _END_BYTES), size))
    return digest.hexdigest()[:16]


@functools.lru_cache(maxsize=4)
def load_tokenizer(name: str, setting: str = "student.base") -> Any:
    """Return a model's fast tokenizer, without warnings about texts longer than the model's window.

    setting: that names the model, for the message.
    """
    from transformers import AutoTokenizer

    with loading(name, setting):
        tokenizer = AutoTokenizer.from_pretrained(local_model(name))
    tokenizer.model_max_length = 10**9
    return tokenizer


def local_model(name: str) -> str:
    """Return a local folder or hub name, as transformers and vLLM take it; a remote folder is fetched.

    Raises:
        UserError: where a file of a student is damaged.
    """
    return fetch_model(model_address(name), Path(tempfile.gettempdir()) / "uniner-models")


def fetch_model(url: str, cache: Path) -> str:
    """Copy a remote model folder into `cache` and return the copy; return any other address as it is.

    Each state of the folder's files is copied once per node, whole or not at all; other processes of the node
    wait meanwhile. A student's files are compared with the digests in its facts, once per node too.

    Raises:
        UserError: where a file of a student is damaged.
    """
    if not is_remote(url):
        _check_once(url, cache)
        return url
    from filelock import FileLock

    folder = Folder(url)
    name = hashlib.sha256(f"{folder.url} {model_digest(url)}".encode()).hexdigest()[:16]
    target, partial = cache / name, cache / f"{name}.part"
    cache.mkdir(parents=True, exist_ok=True)
    with FileLock(cache / f"{name}.lock"):
        if not target.exists():
            shutil.rmtree(partial, ignore_errors=True)  # of a killed process
            try:
                folder.download(partial)
                _require_intact(partial, url)
            except UserError:
                shutil.rmtree(partial, ignore_errors=True)
                raise
            partial.replace(target)
    return str(target)


def _check_once(folder: str, cache: Path) -> None:
    """Compare a local student's files with its facts, unless a process of this node has done so."""
    from filelock import FileLock

    facts = find_student_facts(folder) if Path(folder).is_dir() else None
    if not facts or not facts.files:
        return
    files = [(file, Path(folder) / file) for file in facts.files]
    state = [(file, path.stat().st_size, path.stat().st_mtime_ns) for file, path in files if path.exists()]
    name = hashlib.sha256(json.dumps([folder, asdict(facts), state], sort_keys=True).encode()).hexdigest()
    checked = cache / f"{name[:16]}.checked"
    if checked.exists():
        return
    cache.mkdir(parents=True, exist_ok=True)
    with FileLock(checked.with_suffix(".lock")):
        if not checked.exists():
            _require_intact(Path(folder), folder)
            checked.touch()


def _require_intact(folder: Path, url: str) -> None:
    """Compare a student's files on disk with the digests in its facts. url: where the student is."""
    facts = find_student_facts(str(folder))
    if not facts or not facts.files:
        return
    found = digests_of(folder)
    stage = OWN_STAGES["encoder" if facts.template == ENCODER else "student"]
    for file, digest in facts.files.items():
        if found.get(file) != digest:
            state = "is damaged: it has other bytes than were written" if file in found else "is missing"
            raise UserError(
                f"{url}/{file}: {state}; put the file back, or delete the folder that {stage} wrote, such as "
                f"RUN/{stage}, and run `uniner {stage} CONFIG` again"
            )


def digests_of(folder: Path) -> dict[str, str]:
    """Return the SHA-256 of a student's files on disk, for its facts."""

    def digest(file: Path) -> str:
        with file.open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()

    files = sorted(path for path in folder.iterdir() if path.is_file() and path.name not in _NOT_LISTED)
    with ThreadPoolExecutor(_READERS) as pool:
        return dict(zip((file.name for file in files), pool.map(digest, files), strict=True))


def _whole(least: int) -> Callable[[Any], bool]:
    return lambda value: type(value) is int and value >= least  # true is no number


_RIGHT: dict[str, Callable[[Any], bool]] = {
    "template": lambda value: value in (*TEMPLATES, ENCODER),
    "group_types": lambda value: value is None or _whole(1)(value),
    "max_tokens": _whole(0),
    "types": lambda value: isinstance(value, list) and all(isinstance(name, str) and name for name in value),
    "threshold": lambda value: value is None or (isinstance(value, int | float) and 0 <= value <= 1),
}
"""What facts must be that someone may have written by hand."""


def find_student_facts(url: str) -> StudentFacts | None:
    """Return a student's facts; None if the model has none, so is not one of ours.

    Raises:
        UserError: where they are damaged, or not a student's.
    """
    folder = Folder(url)
    facts = folder.read_json(FACTS)
    if isinstance(facts, dict) and "sha256" in facts:  # facts that were written by hand have no digest
        facts = folder.read_sealed_json(
            FACTS, 'put the file back; if you have changed it yourself, remove its line "sha256"'
        )
    if not facts:
        return None
    try:
        if wrong := next((name for name, right in _RIGHT.items() if not right(facts.get(name))), None):
            raise ValueError(f"{wrong} = {facts.get(wrong)!r}")
        return StudentFacts(**{**facts, "types": tuple(facts["types"])})
    except (TypeError, KeyError, ValueError, AttributeError) as error:
        raise UserError(
            f"{url}/{FACTS} is not a student's ({error}); it needs template (such as type; one of "
            f"{', '.join(TEMPLATES)}), max_tokens (such as 512), base and types (a list, such as "
            '["person"]); group_types is at least 1, and threshold 0 to 1'
        ) from None


def released_template(url: str) -> str | None:
    """Return the template of a model that the paper's authors released, also of a folder with its name."""
    return RELEASED_TEMPLATES.get(url.rstrip("/").rsplit("/", 1)[-1])


def facts_or(url: str, template: str, group_types: int, max_tokens: int) -> StudentFacts:
    """Return a student's facts; for a model that others trained, what the config says of it.

    template is the config's; that of a released model is known.
    """
    return find_student_facts(url) or StudentFacts(
        template=released_template(url) or template,
        group_types=group_types,
        max_tokens=max_tokens,
        base=url,
        types=(),
    )


def student_facts(url: str) -> StudentFacts:
    """Return a student's facts.

    Raises:
        UserError: where the folder has none.
    """
    facts = find_student_facts(url)
    if facts is None:
        stage = OWN_STAGES.get(url.rsplit("/", 1)[-1], "train")
        raise UserError(
            f"{url} is not a student folder (no {FACTS}); train one with `uniner {stage}`, or name a model "
            "in tag.student, such as RUN/train/student or Universal-NER/UniNER-7B-type"
        )
    return facts


def read_calibrations(url: str) -> dict[str, dict[str, Any]]:
    """Return evaluate's calibrations of a student's scores by gold data set (`metrics.calibration`)."""
    cure = "delete that file and run `uniner evaluate CONFIG` again"
    return Folder(url).read_sealed_json(CALIBRATION, cure) or {}


def write_calibrations(student: Folder, measured: Mapping[str, Mapping[str, Any]]) -> None:
    """Add calibrations to a student's folder, by gold data set; those of other data sets stay."""
    existing = read_calibrations(student.url)
    if {**existing, **measured} != existing:
        student.write_sealed_json(CALIBRATION, {**existing, **measured})


def calibration_of(url: str, dataset: str) -> tuple[float, float]:
    """Return slope and intercept that calibrate a student's scores, as measured on a gold data set.

    Raises:
        UserError: where evaluate has not measured them.
    """
    calibrations = read_calibrations(url)
    if dataset not in calibrations:
        measured = f"it has {', '.join(sorted(calibrations))}" if calibrations else "it has none yet"
        raise UserError(
            f"tag.calibration: the student {url} has no calibration for the gold data set {dataset!r} "
            f"({measured}); name it in evaluate.gold and run evaluate first"
        )
    return calibrations[dataset]["slope"], calibrations[dataset]["intercept"]
