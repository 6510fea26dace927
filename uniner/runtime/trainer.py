"""Ray Train behind plain functions: run a training function on several workers and show its progress.

A training function is called as `train_function(job, session)` in each worker process and knows nothing of
Ray: `TrainerSession` is its connection to the cluster and the driver.
"""

import logging
import os
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from typing import Any, NamedTuple

import ray
from ray.exceptions import WorkerCrashedError

from uniner.errors import UserError
from uniner.progress import Progress
from uniner.runtime import connection
from uniner.runtime.gpu import require_gpu
from uniner.runtime.metrics import StageMetrics
from uniner.runtime.placement import Request, Waiting, placed
from uniner.storage.filesystem import filesystem, is_remote
from uniner.storage.folder import Folder

RAY_FOLDER = "ray"
"""The folder in a stage's folder where Ray Train keeps its own state."""
_POLL_SECONDS = 0.2

log = logging.getLogger(__name__)


class RunProgress(NamedTuple):
    """The steps done, the steps in all (0: not known yet) and a note for the progress line."""

    step: int
    steps: int
    note: str


class RunBoard:
    """An actor that worker 0 writes the run's progress to, for the driver to read."""

    def __init__(self) -> None:
        self._progress = RunProgress(0, 0, "waiting for workers")
        self._lines: list[str] = []

    def report(self, progress: RunProgress) -> None:
        """Replace the progress."""
        self._progress = progress

    def say(self, line: str) -> None:
        """Add a line for the driver to print."""
        self._lines.append(line)

    def read(self) -> tuple[RunProgress, list[str]]:
        """Return the progress, and the lines added since the last read."""
        lines, self._lines = self._lines, []
        return self._progress, lines


class TrainerSession:
    """A worker's connection to the cluster and the driver (`train.worker.TrainSession`).

    board: None if the driver shows no progress. name, folder: of the work, for its metrics.
    """

    def __init__(self, board: Any | None, name: str, folder: Folder):
        import ray.train

        self._ray_train = ray.train
        first = ray.train.get_context().get_world_rank() == 0
        self._board = board if first else None
        self._metrics = StageMetrics.of(folder, name) if first and board else None

    def preempted(self) -> bool:
        """Tell whether a machine of this run is about to be taken away."""
        return self._ray_train.get_preemption_info() is not None

    def report(self, step: int, steps: int, note: str) -> None:
        """Send worker 0's progress to the driver."""
        if self._board:
            self._board.report.remote(RunProgress(step, steps, note))

    def measure(self, figures: Mapping[str, float]) -> None:
        """Record a step's figures of worker 0 as metrics."""
        if self._metrics:
            self._metrics.training(figures)

    def checkpointed(self, seconds: float) -> None:
        """Record how long worker 0's last checkpoint took to write."""
        if self._metrics:
            self._metrics.checkpoint(seconds)

    def say(self, line: str) -> None:
        """Send a line of worker 0 to the driver, which prints it."""
        if self._board:
            self._board.say.remote(line)


def run_training(
    train_function: Callable[[Any, TrainerSession], Any],
    job: Any,
    *,
    folder: Folder,
    workers: int | tuple[int, int],
    use_gpu: bool,
    max_failures: int,
    section: str,
    progress: str | None = None,
) -> Any:
    """Run `train_function(job, session)` on every worker. Returns worker 0's result.

    folder: Ray Train keeps its state in a subfolder. workers: a number, or (fewest, most): Ray Train starts
    as many as the cluster has room for, and restarts them all when there is room for more. max_failures:
    worker failures after which Ray Train starts the workers again. section: of these settings, for messages.
    progress: the name of the progress line;
    None shows none.

    Raises:
        UserError: raised by a worker, or more processes died than `max_failures` allows, or the one that
            controls them, or the cluster can never have room for the workers. A function that raises it on
            all workers alike should return it instead: Ray Train would start the workers again, to no use.
    """
    board = _start_board() if progress else None
    settings = {"function": train_function, "job": job, "board": board, "name": progress, "folder": folder}
    name, result = progress or folder.name, Future[Any]()

    def fit() -> None:
        try:
            trainer = _torch_trainer(settings, folder, workers, use_gpu, max_failures)
            result.set_result(trainer.fit().return_value)
        except BaseException as error:
            result.set_exception(_plain_failure(error, name))

    fewest = workers if isinstance(workers, int) else workers[0]
    advice = f"lower {section}.workers" + (f", or set {section}.use_gpu=false" if use_gpu else "")
    with placed(name, _worker_request(use_gpu), fewest, advice=advice) as waiting:
        # In a thread: Ray Train would replace the main thread's signal handlers.
        thread = threading.Thread(target=fit, daemon=True)
        thread.start()
        if progress:
            _show_progress(thread, board, progress, waiting)
        return result.result()


def _worker_request(use_gpu: bool) -> Request:
    return Request(cpus=1, gpus=1 if use_gpu else 0)


def _start_board() -> Any:
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    # It is started again if it dies, as where memory runs out, and shows the progress of the next report.
    board = ray.remote(num_cpus=0, max_restarts=-1, max_task_retries=-1)(RunBoard)
    return board.options(scheduling_strategy=here).remote()


def _show_progress(thread: threading.Thread, board: Any, name: str, waiting: Waiting) -> None:
    with Progress(name, None, "steps", more=lambda: waiting.note) as bar:
        shown, last, alive = 0, None, True
        while alive:
            thread.join(_POLL_SECONDS)
            alive = thread.is_alive()  # before the board is read, so that its last lines are printed too
            progress, lines = ray.get(board.read.remote())
            for line in lines:
                log.info(line)
            if progress == last:
                continue
            last = progress
            waiting.moved()
            if progress.steps and not shown:
                bar.skip(progress.step)
                shown = progress.step
            # After a failure the steps since the last checkpoint run again: they count once.
            more, shown = max(0, progress.step - shown), max(shown, progress.step)
            bar.add(more, share=shown / progress.steps if progress.steps else None, note=progress.note)


def _torch_trainer(
    settings: dict[str, Any], folder: Folder, workers: int | tuple[int, int], use_gpu: bool, max_failures: int
) -> Any:
    # How often Ray Train looks at its workers: its default of 2 s would be a large part of a short run.
    os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.5")
    import pyarrow.fs
    from ray.train import FailureConfig, LoggingConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchTrainer

    system, path = filesystem(folder.url)
    # s3fs, not Arrow's own S3 client: it reads the same AWS_* variables as the rest, also AWS_ENDPOINT_URL.
    remote = pyarrow.fs.PyFileSystem(pyarrow.fs.FSSpecHandler(system)) if is_remote(folder.url) else None
    request = _worker_request(use_gpu)
    return TorchTrainer(
        _run_worker,  # type: ignore[arg-type]  # Ray's annotation does not allow a return value, Ray does
        train_loop_config=settings,
        torch_config=_checked_torch_config(),
        scaling_config=ScalingConfig(
            num_workers=workers,
            use_gpu=use_gpu,
            resources_per_worker=request.bundle(),
            label_selector=request.selector() or None,
        ),
        run_config=RunConfig(
            name=RAY_FOLDER,
            storage_path=path,
            storage_filesystem=remote,
            failure_config=FailureConfig(max_failures=max_failures),
            logging_config=LoggingConfig(log_level="ERROR"),  # type: ignore[call-arg]  # Ray's stubs lag
            # Rows differ in length: without it, freed memory is cut into pieces that fit no other row.
            worker_runtime_env={"env_vars": {"PYTORCH_CUDA_ALLOC_CONF": "expandable_segments:True"}}
            if use_gpu
            else None,
        ),
    )


def _checked_torch_config() -> Any:
    """Return Ray Train's configuration for torch, which checks each worker's GPU before NCCL asks for it.

    What NCCL says where there is none names no cause, and the training function is called only afterwards.
    """
    from ray.train.torch import TorchConfig

    class CheckedBackend(TorchConfig().backend_cls):  # type: ignore[misc]  # mypy: not a static class
        def on_start(self, worker_group: Any, backend_config: Any) -> None:
            if worker_group.get_resources_per_worker().get("GPU"):
                worker_group.execute(require_gpu)
            super().on_start(worker_group, backend_config)

    class CheckedTorchConfig(TorchConfig):  # type: ignore[misc]
        backend_cls = CheckedBackend

    return CheckedTorchConfig()


def _run_worker(settings: dict[str, Any]) -> Any:
    session = TrainerSession(settings["board"], settings["name"] or "", settings["folder"])
    return settings["function"](settings["job"], session)


def _plain_failure(error: BaseException, name: str) -> BaseException:
    """Return the UserError that a worker raised, or one about a process that died, else the error."""
    if user_error := connection.user_error_in(error):
        return user_error
    death = connection.death_in(error)
    if death is None:
        return error
    return UserError(f"{name}: {death}; the same command goes on from the last checkpoint")


def run_in_own_process(
    name: str, function: Callable[..., Any], *arguments: Any, cpus: float, gpus: float, crashed: str
) -> Any:
    """Run a function in a Ray worker process that ends with it, and return its result.

    name: of the work, for the log.

    Raises:
        UserError: raised by the function, or with the text `crashed` if its process died, or the cluster can
            never have room for it.
    """
    request = Request(cpus, gpus)
    options = {"num_cpus": cpus, "num_gpus": gpus, "label_selector": request.selector() or None}
    remote: Any = ray.remote(max_calls=1, max_retries=0, **options)(_run_checked)
    advice = "lower engine.cpus or engine.gpus"
    try:
        with placed(name, request, advice=advice):
            return ray.get(remote.remote(function, arguments, gpus > 0))
    except WorkerCrashedError:
        raise UserError(crashed) from None
    except Exception as error:
        raise connection.user_error_in(error) or error from None


def _run_checked(function: Callable[..., Any], arguments: tuple[Any, ...], on_gpu: bool) -> Any:
    if on_gpu:
        require_gpu()
    return function(*arguments)
