"""Encoders as in tests/encoder, and a run to train one."""

import pytest

from tests.encoder.conftest import make_base, make_encoder, one_thread
from uniner.config.schema import Encoder, Student
from uniner.storage.stage_folder import StageFolder

__all__ = ["make_base", "make_encoder", "one_thread"]


@pytest.fixture
def make_job(make_base, conversations, write_build, tmp_path):
    """Return a function that makes the job of a worker without Ray, in the run `run`."""
    from uniner.train.encoder.worker import EncoderJob

    root = StageFolder(str(tmp_path)) / "run"
    write_build(root / "build", conversations)

    def make(**changes) -> EncoderJob:
        base = make_base(changes.pop("kind", "modernbert"))
        settings = {
            "base": base, "max_width": 4, "batch_passages": 6, "learning_rate": 3e-3, "dropout": 0.1,
            "head_learning_rate": 3e-3, "dtype": "float32", "use_gpu": False, "checkpoint_steps": 2,
        }  # fmt: skip
        section = Encoder(**{**settings, **changes})
        return EncoderJob(
            student=Student(base="unused"), encoder=section, seed=0, run=root, base_address=base
        )

    return make
