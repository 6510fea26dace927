"""The train stage: conversations to the student, on Ray Train's TorchTrainer.

Ray starts the processes, and starts them again after a failure or when there is room for more; what they do
stands in `worker.py`. torch is imported only once the config is known to be right.
"""

import importlib.util
import os
import threading
import time
from concurrent.futures import Future
from typing import Any

import ray
from ray.exceptions import WorkerCrashedError

from uniner.config.schema import Config, Train
from uniner.errors import Planned, UserError
from uniner.progress import Progress, say
from uniner.runtime import chunk_pipeline, connection
from uniner.storage.filesystem import explained, filesystem, is_remote
from uniner.storage.folder import Folder
from uniner.storage.model_folders import model_address, require_model
from uniner.storage.stage_folder import run_folder
from uniner.train import CHECKPOINTS

_POLL_SECONDS = 0.2
RAY = "ray"  # Ray Train's own folder


def check(config: Config) -> None:
    """Check what can be checked before Ray starts.

    Raises:
        UserError: where the base model is missing, or the settings differ from those the stage began with.
        Planned: where only the plan is asked for and the conversations are there.
    """
    train, student = config.train, config.student
    if train.pack_tokens is not None and train.pack_tokens < student.max_tokens:
        raise UserError(
            f"train.pack_tokens = {train.pack_tokens} is below student.max_tokens = {student.max_tokens}"
        )
    fixed = train.fewest_workers if train.fewest_workers == train.most_workers else 0
    if train.shard_workers and (not fixed or fixed % train.shard_workers):
        raise UserError(
            f"train.shard_workers = {train.shard_workers} must divide train.workers = {train.workers}, "
            "a fixed number"
        )
    if train.attention == "flex_attention" and not train.use_gpu:
        raise UserError("train.attention = flex_attention trains on GPUs alone; on CPU take auto")
    if train.lora_bits and not train.lora_rank:
        raise UserError("train.lora_bits is of layers that have adapters; set train.lora_rank too")
    if train.lora_bits:
        _require_library("bitsandbytes", f"train.lora_bits = {train.lora_bits}")
    if train.tracker:
        _require_library(train.tracker, f"train.tracker = {train.tracker}")
    require_model(student.base)
    chunk_pipeline.check_plan(_folder(config), {"stage": "train", "config": _identity(config)})
    if train.plan and (run_folder(config.run) / "build").manifest() is not None:
        _tell_plan(config)


def run(config: Config) -> dict[str, Any]:
    """Train the student and export it to `<run>/train/student/`. Returns the manifest.

    Raises:
        Planned: where only the plan is asked for.
    """
    if config.train.plan:
        _tell_plan(config)
    started = time.monotonic()
    folder = _folder(config)
    build = run_folder(config.run) / "build"
    plan = {"stage": "train", "config": _identity(config), "parents": {"build": build.digest()}}
    if folder.begin(plan):
        _remove_checkpoints(folder)  # again: the run may have ended between the manifest and this
        return chunk_pipeline.already_done("train", folder, "conversations")
    _require_resources(config.train)
    figures = _train(config, folder)
    checked = {"check": _ask_student(config, folder, build)} if config.train.check_export else {}
    manifest = folder.finish(
        plan,
        [],
        rows=figures["conversations"],
        figures=figures,
        seconds=round(time.monotonic() - started, 1),
        **checked,
    )
    _remove_checkpoints(folder)
    return _say_done(manifest)


def _remove_checkpoints(folder: Folder) -> None:
    """Delete what training goes on from: the student stands."""
    for name in (CHECKPOINTS, RAY):
        with explained(folder.url):
            if (folder / name).tree():
                (folder / name).remove_all()


def _folder(config: Config) -> Folder:
    return run_folder(config.run) / "train"


def _order(config: Config) -> Any:
    from uniner.train.prepare import Order

    return Order(
        student=config.student,
        train=config.train,
        seed=config.run.seed,
        base=model_address(config.student.base),
        build_url=(run_folder(config.run) / "build").url,
        folder_url=_folder(config).url,
    )


def _require_library(name: str, setting: str) -> None:
    if importlib.util.find_spec(name) is None:
        raise UserError(f"{setting} needs the library {name}: pip install {name}, on every node")


def _tell_plan(config: Config) -> None:
    """Print the plan and end the job."""
    from uniner.train.prepare import plan

    print(plan(_order(config)).describe(), flush=True)
    raise Planned


def _identity(config: Config) -> dict[str, Any]:
    return {
        "seed": config.run.seed,
        "student": config.student.identity(),
        "train": config.train.identity(),
    }


def _require_resources(train: Train) -> None:
    """Fail where this machine alone can never give what is asked for; say so where a cluster may grow."""
    kind = "GPU" if train.use_gpu else "CPU"
    there, needed = ray.cluster_resources().get(kind, 0), train.fewest_workers
    if there >= needed:
        return
    if os.environ.get("RAY_ADDRESS"):
        say(f"train: waiting for {needed} {kind}s, the cluster has {there:.0f} now")
        return
    cure = "set train.use_gpu=false, or join a cluster with RAY_ADDRESS" if train.use_gpu else "take fewer"
    raise UserError(f"train.workers = {train.workers} needs {needed} {kind}s, there are {there:.0f}; {cure}")


def _train(config: Config, folder: Folder) -> dict[str, float]:
    """Run the workers and show their progress. Returns the figures."""
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    order = _order(config)
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    board: Any = ray.remote(num_cpus=0)(_Board).options(scheduling_strategy=here).remote()
    fitting: Future[dict[str, Any]] = Future()
    # In a thread: the main one keeps its signal handlers, which Ray Train would replace, and shows progress.
    trainer = threading.Thread(target=_fit, args=(fitting, order, folder, board), daemon=True)
    trainer.start()
    with Progress("train", None, "steps") as progress:
        shown, told, alive = 0, None, True
        while alive:
            trainer.join(_POLL_SECONDS)
            alive = trainer.is_alive()  # first: what was said before the end is still read
            looked, lines = ray.get(board.look.remote())
            for line in lines:
                say(line)
            if looked == told:
                continue
            told = looked
            step, steps, note = looked
            if steps and not shown:
                progress.skip(step)
                shown = step
            # After a failure the steps since the last checkpoint come again: they count once.
            more, shown = max(0, step - shown), max(shown, step)
            progress.add(more, share=shown / steps if steps else None, note=note)
    result = fitting.result()
    if "error" in result:
        raise UserError(result["error"])
    return result["figures"]


def _ask_student(config: Config, folder: Folder, build: Folder) -> dict[str, Any]:
    """Have the exported student answer a question in vLLM. Returns what was said."""
    from uniner.inference.engine import EngineSettings
    from uniner.tag.stage import asked_by
    from uniner.train import export_check

    template = asked_by(config, None)
    passage, types = export_check.question(build, template)
    engine = config.engine if config.train.use_gpu else config.engine.model_copy(update={"gpus": 0})
    settings = EngineSettings.of(engine, max_prompt_tokens=config.student.max_tokens)
    # A process of its own, which ends with the task.
    needs = {"num_cpus": engine.cpus, "num_gpus": engine.gpus, "max_calls": 1, "max_retries": 0}
    asking = ray.remote(**needs)(export_check.ask).remote(
        (folder / "student").url, template, passage, types, settings
    )
    try:
        answered = ray.get(asking)
    except WorkerCrashedError:  # as the engine's process does where vLLM dies
        raise UserError(
            export_check.not_answering((folder / "student").url, "it died; see its lines above")
        ) from None
    except Exception as error:
        raise connection.user_error_in(error) or error from None
    reply = answered["replies"][0]
    say(f"train: vLLM loads the student; asked for {reply['type']}, it says {reply['text'][:80]!r}")
    return answered


class _Board:
    """An actor on which worker 0 writes how far the run is, and where the driver looks."""

    def __init__(self) -> None:
        self._told = (0, 0, "waiting for workers")
        self._lines: list[str] = []

    def tell(self, step: int, steps: int, note: str) -> None:
        self._told = (step, steps, note)

    def say(self, line: str) -> None:
        self._lines.append(line)

    def look(self) -> tuple[tuple[int, int, str], list[str]]:
        lines, self._lines = self._lines, []
        return self._told, lines


def _fit(fitting: Future[dict[str, Any]], order: Any, folder: Folder, board: Any) -> None:
    try:
        fitting.set_result(_trainer(order, folder, board).fit().return_value)
    except BaseException as error:
        fitting.set_exception(_user_error_in(error) or error)


def _trainer(order: Any, folder: Folder, board: Any) -> Any:
    from ray.train.torch import TorchTrainer

    return TorchTrainer(
        _run_worker,  # type: ignore[arg-type]  # Ray's annotation forgets that it may return a value
        train_loop_config={"order": order, "board": board},
        **ray_settings(folder, order.train.workers, order.train.use_gpu, order.train.failures),
    )


def ray_settings(
    folder: Folder, workers: int | tuple[int, int], use_gpu: bool, failures: int
) -> dict[str, Any]:
    """Return how Ray Train runs so many processes (of a pair, as many as there are, and it looks for more).

    What it keeps lies in a subfolder of the stage's.
    """
    # How often Ray Train looks at its workers; its default of 2 s would be a large part of a short run.
    os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.5")
    import pyarrow.fs
    from ray.train import FailureConfig, LoggingConfig, RunConfig, ScalingConfig

    system, path = filesystem(folder.url)
    # s3fs and not Arrow's own S3 client: it reads the same AWS_* variables as the rest, AWS_ENDPOINT_URL too.
    remote = pyarrow.fs.PyFileSystem(pyarrow.fs.FSSpecHandler(system)) if is_remote(folder.url) else None
    resources = {"CPU": 1.0, "GPU": 1.0} if use_gpu else {"CPU": 1.0}
    return {
        "scaling_config": ScalingConfig(num_workers=workers, use_gpu=use_gpu, resources_per_worker=resources),
        "run_config": RunConfig(
            name=RAY,
            storage_path=path,
            storage_filesystem=remote,
            failure_config=FailureConfig(max_failures=failures),
            logging_config=LoggingConfig(log_level="ERROR"),  # type: ignore[call-arg]  # Ray's stubs lag
        ),
    }


def _run_worker(settings: dict[str, Any]) -> dict[str, Any]:
    from uniner.train import worker

    return worker.work(settings["order"], _RaySession(settings["board"]))


class _RaySession:
    """Ray Train behind the worker's `Session`."""

    def __init__(self, board: Any):
        import ray.train

        self._ray = ray.train
        self._board = board
        self._first = ray.train.get_context().get_world_rank() == 0

    def leaving(self) -> bool:
        return self._ray.get_preemption_info() is not None

    def tell(self, step: int, steps: int, note: str) -> None:
        if self._first:
            self._board.tell.remote(step, steps, note)

    def say(self, line: str) -> None:
        if self._first:
            self._board.say.remote(line)


def _user_error_in(error: BaseException) -> UserError | None:
    """Find the UserError inside what Ray Train raises, which keeps the workers' errors in its own fields."""
    inner = [*getattr(error, "worker_failures", {}).values(), getattr(error, "controller_failure", None)]
    found = (connection.user_error_in(each) for each in (error, *inner) if each is not None)
    return next((user_error for user_error in found if user_error), None)


def _say_done(manifest: dict[str, Any]) -> dict[str, Any]:
    figures = manifest["figures"]
    measured = f", validation {figures['validation_loss']:.4f}" if "validation_loss" in figures else ""
    if "validation_f1" in figures:
        asked = f"{figures['validation_questions']:,} validation questions"
        measured += f" and F1 {figures['validation_f1']:.3f} on {asked}"
    say(
        f"train: {figures['steps']:,} steps over {manifest['rows']:,} conversations, "
        f"loss {figures['first_loss']:.4f} to {figures['last_loss']:.4f}{measured}, "
        f"{figures['tokens_per_s']:,.0f} tokens/s, in {manifest['seconds']:,.0f} s"
    )
    return manifest
