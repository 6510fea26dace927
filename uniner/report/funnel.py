"""How documents became entities: counts in the order of the work, in lanes of one unit each. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from uniner.storage.manifest import Counts


@dataclass(frozen=True, kw_only=True)
class FunnelStep:
    """A count on the way. dropped: what is left out after it, by reason.

    apart: it is not what is left of the step before, but begins anew.
    """

    label: str
    count: int
    dropped: Mapping[str, int] = field(default_factory=dict)
    apart: bool = False


@dataclass(frozen=True, kw_only=True)
class FunnelLane:
    """The steps of one unit, such as passages. Steps of different lanes are not comparable."""

    unit: str
    steps: tuple[FunnelStep, ...]


def funnel_lanes(figures: Mapping[str, Counts], rows: Mapping[str, int]) -> tuple[FunnelLane, ...]:
    """Return the lanes of the stages that have begun. figures, rows: by stage."""
    lanes = {
        "passages": _passages(figures, rows),
        "mentions of the teacher": _mentions(figures),
        "questions": _questions(figures),
        "entities": _entities(figures),
    }
    return tuple(FunnelLane(unit=unit, steps=tuple(steps)) for unit, steps in lanes.items() if steps)


def _dropped(counts: Counts, prefix: str) -> dict[str, int]:
    return {
        name.removeprefix(prefix).replace("_", " "): int(count)
        for name, count in sorted(counts.items())
        if name.startswith(prefix) and count
    }


def _passages(figures: Mapping[str, Counts], rows: Mapping[str, int]) -> list[FunnelStep]:
    steps = []
    ingest, build = figures.get("ingest", {}), figures.get("build", {})
    if "documents" in ingest:
        rejected = _dropped(ingest, "rejected_")
        steps.append(FunnelStep(label="documents read", count=int(ingest["documents"]), dropped=rejected))
    if "documents_chosen" in ingest and ingest["documents_chosen"] != ingest.get("documents"):
        steps.append(FunnelStep(label="documents chosen", count=int(ingest["documents_chosen"])))
    if "ingest" in rows:
        sampled = int(ingest.get("passages_sampled", rows["ingest"]))
        if dropped := _dropped(ingest, "dropped_"):
            steps.append(FunnelStep(label="passages cut", count=sampled, dropped=dropped))
        steps.append(FunnelStep(label="passages", count=rows["ingest"]))
    if build:
        annotated = int(build.get("passages", 0))
        steps.append(
            FunnelStep(label="passages annotated", count=annotated, dropped=_dropped(build, "dropped_"))
        )
        steps.append(FunnelStep(label="conversations", count=int(build.get("conversations", 0))))
        steps.append(FunnelStep(label="of these to train on", count=int(build.get("train", 0))))
    elif "annotate" in rows:
        steps.append(FunnelStep(label="passages annotated", count=rows["annotate"]))
    if "tag" in rows:
        steps.append(FunnelStep(label="passages tagged", count=rows["tag"], apart="annotate" in rows))
    return steps


def _mentions(figures: Mapping[str, Counts]) -> list[FunnelStep]:
    steps = []
    annotate, build = figures.get("annotate", {}), figures.get("build", {})
    if "entities" in annotate:
        steps.append(FunnelStep(label="mentions by the teacher", count=int(annotate["entities"])))
    if build:
        kept, dropped = int(build.get("mentions", 0)), _dropped(build, "mentions_")
        used = kept + sum(dropped.values())
        steps.append(FunnelStep(label="mentions in passages used", count=used, dropped=dropped))
        steps.append(FunnelStep(label="mentions kept", count=kept))
    return steps


def _questions(figures: Mapping[str, Counts]) -> list[FunnelStep]:
    steps = []
    build, tag = figures.get("build", {}), figures.get("tag", {})
    if build:
        positives, negatives = (int(build.get(name, 0)) for name in ("positives", "negatives"))
        steps.append(FunnelStep(label="questions to train on", count=positives + negatives))
        steps.append(FunnelStep(label="of these positive", count=positives))
    if "questions" in tag:
        steps.append(FunnelStep(label="questions asked by tag", count=int(tag["questions"]), apart=True))
    return steps


def _entities(figures: Mapping[str, Counts]) -> list[FunnelStep]:
    tag = figures.get("tag", {})
    if "entities" not in tag:
        return []
    kept, dropped = int(tag["entities"]), _dropped(tag, "dropped_")
    answered = FunnelStep(label="mentions answered", count=kept + sum(dropped.values()), dropped=dropped)
    found = kept - int(tag.get("ungrounded", 0))
    return [
        answered,
        FunnelStep(label="entities kept", count=kept),
        FunnelStep(label="of these found in the text", count=found),
    ]
