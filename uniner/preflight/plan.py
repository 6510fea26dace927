"""The checks that a run needs, in order: the storage first, the teacher's request, which costs, last."""

import functools
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from uniner.config.systems import ChatSystem, EncoderSystem, GlinerSystem, InstructedSystem, TemplateSystem
from uniner.config.teachers import AnyTeacher, RecordingTeacher, VllmTeacher
from uniner.errors import MissingLibraryError
from uniner.evaluate.systems_registry import SystemSpec, choose_systems
from uniner.gold.catalogue import resolve_group
from uniner.preflight import data, gpus, nodes, storage, teacher
from uniner.preflight.models import (
    ModelUse,
    check_base,
    check_encoder,
    check_encoder_base,
    check_use,
    read_model,
)
from uniner.preflight.nodes import Machine
from uniner.preflight.results import Check, CheckResult, error, ok, results_of, warning
from uniner.preflight.teacher import TeacherBudget
from uniner.runtime.placement import NodeType, Request, node_types, require_room
from uniner.runtime.stage_context import Stage, StageContext
from uniner.storage.filesystem import is_remote
from uniner.storage.model_folders import FACTS, is_encoder, model_address, own_model
from uniner.tag.student import tags_by_encoder

if TYPE_CHECKING:
    from uniner.train.encoder.worker import EncoderJob
    from uniner.train.prepare import TrainJob

SECTIONS = (
    "run", "student", "teacher", "generate", "ingest", "annotate", "describe", "build", "train", "encoder",
    "engine", "evaluate", "tag",
)  # fmt: skip
_BASE = "student.base"


@dataclass(frozen=True, kw_only=True)
class RunPlan:
    """A run's stages that are to be checked.

    context: of all sections. stages: a stage's module and its own context, by its name. find_machines:
    returns the machines of the cluster, else this one.
    """

    context: StageContext
    stages: Mapping[str, tuple[Stage, StageContext]]
    find_machines: Callable[[], tuple[Machine, ...]]

    def checks(self) -> list[Check]:
        """Return the checks."""
        cluster, sections = "RAY_ADDRESS" in os.environ, self.context.sections
        root, cache = sections.run.root, sections.teacher.cache
        checks = [Check("run.root", lambda: storage.check_place("run.root", root, cluster))]
        if cache and self._asks_teacher:
            checks.append(
                Check("teacher.cache", lambda: storage.check_place("teacher.cache", cache, cluster))
            )
        if cluster:
            checks.append(Check("machines", self._check_machines))
            checks.append(Check("rights of the machines", self._check_rights))
        checks += [Check("models", self._check_models), *self._data_checks()]
        checks += [
            Check(name, functools.partial(_check_stage, *stage)) for name, stage in self.stages.items()
        ]
        checks.append(Check("GPUs", self._check_gpus))
        checks.append(Check("room", self._check_room if cluster else self._check_room_here))
        return [*checks, Check("disks", self._check_disks), Check("teachers", self._check_teachers)]

    def _check_machines(self) -> Iterator[CheckResult]:
        machines = self._machines
        yield from nodes.check_machines(machines)
        yield from nodes.check_versions(machines, nodes.read_facts())
        yield from nodes.check_clocks(machines)

    def _check_rights(self) -> Iterator[CheckResult]:
        """Check the buckets from every machine: tasks run under the machine's identity, not the driver's."""
        if not any(machine.facts for machine in self._machines):
            return  # the cluster cannot be reached, which was said
        places = {"run.root": self.context.sections.run.root}
        if self.context.sections.teacher.cache and self._asks_teacher:
            places["teacher.cache"] = self.context.sections.teacher.cache
        for setting, url in places.items():
            if url.startswith("s3://"):
                answers = nodes.ask_machines(functools.partial(storage.bucket_rights, url))
                yield from nodes.check_rights(setting, url, answers)

    @functools.cached_property
    def _machines(self) -> tuple[Machine, ...]:
        return self.find_machines()

    def _data_checks(self) -> Iterator[Check]:
        ingest, build = self.context.sections.ingest, self.context.sections.build
        if "ingest" in self.stages and ingest.shards:
            yield Check("ingest.shards", lambda: data.check_shards(ingest))
        if "ingest" in self.stages and ingest.decontaminate:
            yield Check("ingest.decontaminate", lambda: data.check_benchmarks(ingest))
        if "build" in self.stages and build.supervised:
            yield Check("build.supervised", lambda: data.check_gold("build.supervised", build.supervised))
        if "evaluate" in self.stages:
            yield Check("evaluate.gold", lambda: data.check_gold("evaluate.gold", self._gold()))

    def _gold(self) -> dict[str, str]:
        evaluate = self.context.sections.evaluate
        return resolve_group(evaluate.group, evaluate.data, evaluate.gold)

    def _systems(self) -> list[SystemSpec]:
        """Return the systems that evaluate scores; none where it has no gold data."""
        sections = self.context.sections
        if "evaluate" not in self.stages or not self._gold():
            return []
        run, seed = self.context.run_folder, self.context.seed
        return [*choose_systems(sections.evaluate, sections.engine, sections.student, run, seed).values()]

    def _check_models(self) -> Iterator[CheckResult]:
        if "train" in self.stages:
            student = self.context.sections.student
            yield from results_of(Check(_BASE, lambda: check_base(student.base, student.max_tokens)))
        yield from self._check_encoders()
        seen = {(_BASE, self.context.sections.student.base)} if "train" in self.stages else set()
        for use in self._uses():
            if (use.setting, use.name) not in seen:
                seen.add((use.setting, use.name))
                yield from results_of(Check(use.setting, functools.partial(check_use, use)))

    def _check_encoders(self) -> Iterator[CheckResult]:
        """Check the encoder's base, and the encoders that tag and evaluate load; the run's own if trained."""
        sections, own = self.context.sections, own_model(self.context.run_folder, "encoder")
        base = sections.encoder.base
        if self._trains_encoder and base:
            yield from results_of(Check("encoder.base", lambda: check_encoder_base(base)))
        tag = sections.tag
        named = {"tag.student": tag.student, "tag.prefilter": tag.prefilter} if "tag" in self.stages else {}
        found = {
            setting: own.url if name == "encoder" else name
            for setting, name in named.items()
            if name == "encoder" or (name and name != "student" and is_encoder(model_address(name)))
        }
        for system in self._systems():
            if isinstance(system.settings, EncoderSystem):
                found[f"evaluate.system.{system.name}"] = system.model
        for setting, address in found.items():
            if address != own.url or own.exists(FACTS):
                yield from results_of(Check(setting, functools.partial(check_encoder, setting, address)))
            elif not base:
                example = "encoder.base=answerdotai/ModernBERT-base"
                yield error(
                    setting, f"this run's encoder is not trained; set encoder.base, such as {example}"
                )

    @property
    def _trains_encoder(self) -> bool:
        """Tell whether the encoder is still to be trained: once it is, its base may be gone."""
        if "train-encoder" not in self.stages or not self.context.sections.encoder.base:
            return False
        return (self.context.run_folder / "train-encoder").manifest() is None

    @property
    def _tags_by_encoder(self) -> bool:
        return "tag" in self.stages and tags_by_encoder(self.context)

    def _uses(self) -> Iterator[ModelUse]:
        """Yield the models that the stages load. A student that is not trained yet is like its base."""
        sections, stages = self.context.sections, self.stages
        base, engine = sections.student.base, sections.engine
        if stages.keys() & {"ingest", "train"}:
            yield ModelUse(_BASE, base)
        if self._asks_teacher and isinstance(sections.teacher, VllmTeacher):
            yield _teacher_use("teacher", sections.teacher, sections.annotate.max_reply_tokens)
        window = sections.student.max_tokens + max(engine.max_answer_tokens, engine.retry_answer_tokens)
        own = own_model(self.context.run_folder, "student")
        student = ModelUse(_BASE, base, engine, window)
        if own.exists(FACTS):
            student = ModelUse("the run's student", own.url, engine, window)
        if "tag" in stages:
            named = sections.tag.student
            if named == "student":
                yield student
            elif not self._tags_by_encoder:
                yield ModelUse("tag.student", named, engine, window)
        for system in self._systems():
            settings, setting = system.settings, f"evaluate.system.{system.name}"
            if isinstance(settings, ChatSystem):
                if isinstance(settings.teacher, VllmTeacher):
                    yield _teacher_use(f"{setting}.teacher", settings.teacher, settings.max_reply_tokens)
            elif system.own_stage == "train":
                yield student
            elif system.model == model_address(base):
                yield ModelUse(_BASE, base, system.engine, window)
            elif isinstance(settings, TemplateSystem | InstructedSystem):
                yield ModelUse(setting, system.model, system.engine, window)
            elif not isinstance(settings, EncoderSystem | GlinerSystem):  # their files are others
                yield ModelUse(setting, system.model)

    def _check_gpus(self) -> Iterator[CheckResult]:
        sections, build = self.context.sections, self.context.run_folder / "build"
        # To count the conversations' tokens, the estimate would copy a remote base here whole.
        built = not is_remote(sections.student.base) and build.manifest() is not None
        encoder_built = not is_remote(sections.encoder.base or "") and build.manifest() is not None
        kinds = functools.cache(lambda: gpus.gpu_kinds(self._machines, _node_types()))

        def judged(find: Callable[[], Iterable[CheckResult]]) -> Iterator[CheckResult]:
            yield from self._if_here(find())

        if "train" in self.stages and sections.train.use_gpu:
            check = functools.partial(gpus.check_training, self._job, built, kinds)
            yield from results_of(Check("train on GPUs", functools.partial(judged, check)))
        if self._trains_encoder and sections.encoder.use_gpu:
            check = functools.partial(gpus.check_encoder_training, self._encoder_job, encoder_built, kinds)
            yield from results_of(Check("train-encoder on GPUs", functools.partial(judged, check)))
        seen = set()
        for use in self._uses():
            if use.serving and use.serving.gpus and (use.name, use.window) not in seen:
                seen.add((use.name, use.window))
                check = functools.partial(gpus.check_engine, use, kinds)
                yield from results_of(Check(use.setting, functools.partial(judged, check)))
        for system in self._systems():
            setting = f"evaluate.system.{system.name}"
            check = functools.partial(
                gpus.check_system, setting, system.model, system.settings, system.engine, kinds
            )
            yield from results_of(Check(setting, functools.partial(judged, check)))

    @property
    def _job(self) -> "TrainJob":
        from uniner.train.stage import train_job

        return train_job(self.context)

    @property
    def _encoder_job(self) -> "EncoderJob":
        from uniner.train.encoder.stage import encoder_job

        return encoder_job(self.context)

    def _check_room(self) -> Iterator[CheckResult]:
        """Check that the cluster can ever hold a task, the training workers, and each engine."""
        train = self.context.sections.train
        wanted = [("a task of ingest, build or evaluate", Request(1), 1, "add a node type with CPUs")]
        if "train" in self.stages:
            request = Request(1, 1 if train.use_gpu else 0)
            wanted.append(("train", request, train.fewest_workers, "lower train.workers"))
        for use in self._uses():
            if use.serving:
                request = Request(use.serving.cpus, use.serving.gpus)
                wanted.append((f"the engine of {use.setting}", request, 1, "lower its cpus or gpus"))
        wanted += self._encoder_requests
        for each in dict.fromkeys(wanted):
            yield from results_of(Check(f"room for {each[0]}", functools.partial(_check_room_for, *each)))

    @property
    def _encoder_requests(self) -> list[tuple[str, Request, int, str]]:
        """The requests to train an encoder, to tag by one and to score one, as `require_room` takes them."""
        encoder, engine = self.context.sections.encoder, self.context.sections.engine
        wanted = []
        if self._trains_encoder:
            request = Request(1, 1 if encoder.use_gpu else 0)
            cure = "lower encoder.workers" + (" or set encoder.use_gpu=false" if encoder.use_gpu else "")
            wanted.append(("train-encoder", request, encoder.workers, cure))
        request = Request(engine.cpus, engine.gpus)
        cure = "lower engine.cpus" + (" or set engine.gpus=0" if engine.gpus else "")
        users = ["tagging by the encoder"] if self._tags_by_encoder else []
        users += [
            f"evaluate.system.{system.name}"
            for system in self._systems()
            if isinstance(system.settings, EncoderSystem)
        ]
        return [*wanted, *((user, request, 1, cure) for user in users)]

    def _check_room_here(self) -> Iterator[CheckResult]:
        """Check that this machine can hold the work of encoders; that of large models is for a cluster."""
        gpus_here = sum(len(machine.facts.gpus) for machine in self._machines if machine.facts)
        here = NodeType("this machine", {"CPU": os.cpu_count() or 1, "GPU": gpus_here}, {}, 1)
        for name, request, count, cure in self._encoder_requests:
            if here.room(request) < count:
                times = "" if count == 1 else f"{count:,} times "
                found = f"needs {times}{request.text()}, but there are {here.text()}"
                results = [error(f"room for {name}", f"{found}; {cure}, or join a cluster with RAY_ADDRESS")]
                yield from self._if_here(results)

    def _check_disks(self) -> Iterator[CheckResult]:
        train = self.context.sections.train
        everywhere, on_gpus = dict[str, float](), dict[str, float]()
        for use in self._uses():
            place = on_gpus if use.serving and use.serving.gpus else everywhere
            if use.name not in everywhere:
                place[use.name] = read_model(use.setting, use.name).fetched_bytes
        if self._trains_encoder and (base := self.context.sections.encoder.base):
            place = on_gpus if self.context.sections.encoder.use_gpu else everywhere
            place[base] = read_model("encoder.base", base).fetched_bytes
        if "train" in self.stages:
            (on_gpus if train.use_gpu else everywhere).update(gpus.training_files(self._job))
        yield from self._if_here(nodes.check_disks(self._machines, everywhere, on_gpus))

    def _if_here(self, results: Iterable[CheckResult]) -> Iterator[CheckResult]:
        """Yield results about the machines. Errors of this one are doubts where a cluster may do the work:
        the data of the run will be where one can read them."""
        elsewhere = "RAY_ADDRESS" not in os.environ and is_remote(self.context.sections.run.root)
        for result in results:
            doubtful = elsewhere and result.level == "error"
            yield (
                warning(result.subject, f"{result.found} (unless a cluster does it)") if doubtful else result
            )

    @property
    def _asks_teacher(self) -> bool:
        return bool(self._teacher_stages)

    @property
    def _teacher_stages(self) -> list[str]:
        generates = "generate" in self.stages and self.context.sections.generate.domains
        describes = "describe" in self.stages and self.context.sections.describe.types
        asking = {"annotate": "annotate" in self.stages, "generate": generates, "describe": describes}
        return [stage for stage, asks in asking.items() if asks]

    def _check_teachers(self) -> Iterator[CheckResult]:
        """Ask each server that the stages ask, once."""
        sections, run = self.context.sections, self.context.run_folder
        asked = set[tuple[str, ...]]()
        if self._asks_teacher:
            stages = dict.fromkeys((*self._teacher_stages, "annotate", "generate", "describe"))
            budget = TeacherBudget(
                usd=sections.run.budget_usd,
                setting="run.budget_usd",
                stages=tuple(run / stage for stage in stages),
            )
            done = all((run / stage).manifest() for stage in self._teacher_stages)
            yield from self._check_teacher("teacher", sections.teacher, budget, asked, done)
        for system in self._systems():
            settings, name = system.settings, f"evaluate.system.{system.name}"
            if isinstance(settings, ChatSystem):
                folder = run / "evaluate" / system.name
                budget = TeacherBudget(
                    usd=settings.budget_usd, setting=f"{name}.budget_usd", stages=(folder,)
                )
                done = folder.manifest() is not None
                yield from self._check_teacher(f"{name}.teacher", settings.teacher, budget, asked, done)

    def _check_teacher(
        self, name: str, section: AnyTeacher, budget: TeacherBudget, asked: set[tuple[str, ...]], done: bool
    ) -> Iterator[CheckResult]:
        if done:
            yield ok(name, "not asked: the stages that ask it are complete")
        elif isinstance(section, RecordingTeacher):
            yield from results_of(Check(name, lambda: teacher.check_recording(section, name)))
        elif not isinstance(section, VllmTeacher):
            server = (section.model, section.base_url or "", section.api_key_env)
            if server not in asked:
                asked.add(server)
                yield from results_of(Check(name, lambda: teacher.check_server(section, name, budget)))


def _teacher_use(name: str, section: VllmTeacher, longest_reply: int) -> ModelUse:
    window = section.max_prompt_tokens + longest_reply
    return ModelUse(f"{name}.model", section.model, section, window, chat=True)


def _check_stage(module: Stage, context: StageContext) -> Iterator[CheckResult]:
    try:
        module.check(context)
    except MissingLibraryError as missing:  # the last of a stage's checks
        yield warning(context.stage, f"its settings and input are right, but {missing}; it is not here")
    else:
        yield ok(context.stage, "its settings and input are right")


def _check_room_for(name: str, request: Request, count: int, advice: str) -> Iterator[CheckResult]:
    require_room(name, request, count, advice)
    yield ok(f"room for {name}", f"{request.text(count)} can be placed, if no other work has them")


def _node_types() -> list[NodeType] | None:
    """Return the machines that the cluster can start; without a cluster, None."""
    return node_types() if "RAY_ADDRESS" in os.environ else None
