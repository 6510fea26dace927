"""The model folders that stages pass on: the base, and the student with the facts of its training."""

import functools
import hashlib
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from uniner.errors import UserError
from uniner.storage.filesystem import absolute, explained, is_remote, read_part
from uniner.storage.stage_folder import Folder

FACTS, CARD, CALIBRATION = "uniner.json", "README.md", "calibration.json"
_END_BYTES = 1 << 20
_HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")


def model_address(name: str) -> str:
    """Return a model's address: a folder's absolute path or s3:// address, or the hub name as it is."""
    return name if is_remote(name) or not Path(name).expanduser().exists() else absolute(name)


def require_model(name: str, described_by: str = "config.json") -> None:
    """Make sure that a name is a model folder, which has that file, or can be a hub name.

    Raises:
        UserError: where it is neither.
    """
    if not is_remote(name) and not Path(name).expanduser().exists() and _HUB_NAME.fullmatch(name):
        return  # a hub name: transformers and vLLM fetch it
    folder = Folder(name)
    with explained(name):
        has_config = folder.exists(described_by)
    if not has_config:
        raise UserError(
            f"{name}: is no model folder (no {described_by}); name a Hugging Face folder or hub name"
        )


def local_model(name: str) -> str:
    """Return what transformers and vLLM take: a local folder (a remote one is copied once a node) or name."""
    return localised(model_address(name), Path(tempfile.gettempdir()) / "uniner-models")


@contextmanager
def loading(name: str, setting: str) -> Iterator[None]:
    """Turn what transformers raises for a folder or name that is no such model into one line."""
    try:
        with explained(name):
            yield
    except (OSError, ValueError) as error:
        why = " ".join(str(error).split())[:200]
        raise UserError(f"{setting} {name}: cannot be loaded as a model ({why})") from None


def model_fingerprint(name: str) -> str:
    """Return what identifies a model: a digest of its files' names, sizes and ends, or the hub name itself.

    The ends are enough: training changes every weight, and a folder may be copied without another identity.
    """
    folder = Folder(name)
    files = _sizes(folder)
    if not files:
        return name
    digest = hashlib.sha256()
    for file, size in sorted(files.items()):
        digest.update(f"{file} {size} ".encode())
        digest.update(read_part(folder.path(file), max(0, size - _END_BYTES), size))
    return digest.hexdigest()[:16]


def _sizes(folder: Folder) -> dict[str, int]:
    """Return the sizes of a model's files but those that evaluate writes: the model stays the same."""
    return {file: size for file, size in folder.sizes().items() if file not in (CARD, CALIBRATION)}


@functools.lru_cache(maxsize=4)
def load_tokenizer(name: str) -> Any:
    """Return the base model's fast tokenizer, quiet about texts longer than the model's window."""
    from transformers import AutoTokenizer

    with loading(name, "student.base"):
        tokenizer = AutoTokenizer.from_pretrained(local_model(name))
    tokenizer.model_max_length = 10**9
    return tokenizer


def student_facts(url: str) -> dict[str, Any]:
    """Return what a student's folder says of itself: template, group_types, max_tokens, base, types.

    Raises:
        UserError: where the folder is no student's.
    """
    with explained(url):
        facts = Folder(url).read_json(FACTS)
    if facts is None:
        raise UserError(f"{url}: is no student folder (no {FACTS}); train one, or name one that train made")
    return facts


def calibrations(url: str) -> dict[str, dict[str, Any]]:
    """Return what evaluate found of a student's scores, a gold data set each (`CalibrationReport`)."""
    with explained(url):
        return Folder(url).read_json(CALIBRATION) or {}


def write_calibrations(student: Folder, scores: dict[str, Any]) -> None:
    """Leave with a student how far its scores hold, by evaluate's scores of it; other data sets' stand."""
    measured = {name: found["calibration"] for name, found in scores.items() if found["calibration"]}
    standing = calibrations(student.url)
    if {**standing, **measured} != standing:
        student.write_json(CALIBRATION, {**standing, **measured})


def calibration_of(url: str, dataset: str) -> tuple[float, float]:
    """Return the slope and intercept that calibrate a student's scores, as measured on a gold data set.

    Raises:
        UserError: where nothing is measured on it.
    """
    found = calibrations(url)
    if dataset not in found:
        measured = f"it is on {', '.join(sorted(found))}" if found else "evaluate has scored it on none"
        raise UserError(
            f"tag.calibration: the student {url} is not measured on a gold data set {dataset!r} "
            f"({measured}); name it in evaluate.gold and run evaluate first"
        )
    return found[dataset]["slope"], found[dataset]["intercept"]


def localised(url: str, cache: Path) -> str:
    """Return a model's address as one that transformers and vLLM take: a local folder, or a hub name.

    A remote folder is copied into `cache` once for each state of its files, whole or not at all, by one of a
    node's processes while the others wait.
    """
    if not is_remote(url):
        return url
    from filelock import FileLock

    folder = Folder(url)
    name = hashlib.sha256(f"{folder.url} {model_fingerprint(url)}".encode()).hexdigest()[:16]
    target, fresh = cache / name, cache / f"{name}.part"
    cache.mkdir(parents=True, exist_ok=True)
    with FileLock(cache / f"{name}.lock"):
        if not target.exists():
            shutil.rmtree(fresh, ignore_errors=True)  # of a process that was killed
            folder.download(fresh)
            fresh.replace(target)
    return str(target)
