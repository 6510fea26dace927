"""What every stage is given, and the functions that every stage has. Does not import Ray."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Protocol, Self, cast

from uniner.config.schema import Config
from uniner.storage.manifest import Manifest
from uniner.storage.stage_folder import StageFolder, run_folder


class _DeclaredSections:
    """The sections of the config that a stage declares; the others raise."""

    def __init__(self, config: Config, stage: str, names: Iterable[str]):
        self._stage = stage
        for name in names:
            setattr(self, name, getattr(config, name))

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(f"the stage {self._stage} does not declare the section {name} in its SECTIONS")


@dataclass(frozen=True, kw_only=True)
class StageContext:
    """A stage's place in its run and the config sections that it declares.

    sections: typed as the config; reading a section that the stage does not declare raises. retry_failed: a
    complete stage asks the teacher again about the rows that failed. append: ingest adds new shards.
    """

    stage: str
    run_folder: StageFolder
    seed: int
    sections: Config
    retry_failed: bool = False
    append: bool = False

    @classmethod
    def of(
        cls,
        config: Config,
        stage: str,
        sections: Iterable[str],
        *,
        retry_failed: bool = False,
        append: bool = False,
    ) -> Self:
        """Build the context of a stage."""
        return cls(
            stage=stage,
            run_folder=run_folder(config.run.root, config.run.name),
            seed=config.run.seed,
            sections=cast(Config, _DeclaredSections(config, stage, sections)),
            retry_failed=retry_failed,
            append=append,
        )

    @property
    def folder(self) -> StageFolder:
        """Return the stage's own folder."""
        return self.run_folder / self.stage


class Stage(Protocol):
    """A module `uniner.<stage>.stage`.

    A stage that can say what it would cost also has `estimate(context) -> str`.
    """

    SECTIONS: tuple[str, ...]

    def check(self, context: StageContext) -> None:
        """Check input and settings before Ray starts; reads, never does work.

        Raises:
            UserError: naming what is wrong, where, and what to do.
        """
        ...

    def parents(self, context: StageContext) -> Iterable[str]:
        """Return the stages of this run that must be complete before this one runs."""
        ...

    def run(self, context: StageContext) -> Manifest | None:
        """Do the stage's work. Returns the manifest; None where there is nothing to do."""
        ...
