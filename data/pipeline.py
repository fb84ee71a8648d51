"""How the tasks of a phase are spread: here, and only here, is datatrove known.

A task is done by `do_task`, wherever it runs. With one local worker that is a loop in this process. Otherwise one
`PipelineStep` does task number `rank` under one of datatrove's executors: local processes, Ray, or Slurm. datatrove's
own completion files are not used (`skip_completed=False`): a task is done when its marker is there, and those left over
are handed out again.
"""

from __future__ import annotations

import logging
import os
import shutil
import sys
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from data.shards import read_json, write_json
from data.slurm_queue import JobIds, left_queue
from data.stage import Context, Phase, TakenOver, check_owner, save_marker

if TYPE_CHECKING:
    from datatrove.executor.base import PipelineExecutor

ExecutorName = Literal["local", "ray", "slurm"]
ROOT = Path(__file__).resolve().parent.parent
SILENCE_SECONDS = 120.0
"""Time without a task running or done after which a pool is taken for hung: starting a worker takes seconds."""
POLL_SECONDS = 5.0
"""Time between two looks for the markers of tasks that Slurm does."""
QUEUE_SECONDS = 30.0
"""Time between two questions to Slurm's queue: the controller is shared with everybody."""
GRACE_SECONDS = 90.0
"""Time that markers have to appear after their jobs left the queue: a network file system shows new files late."""


@dataclass(frozen=True, kw_only=True)
class SlurmConfig:
    """What Slurm is asked for, for each task."""

    partition: str = "cpu"
    """The partition that jobs are sent to."""
    time: str = "24:00:00"
    """The time limit of a job."""
    cpus: int = 1
    """Processors a task."""
    memory_gb: int = 4
    """Memory a processor, in GB."""
    qos: str = ""
    """Quality of service, where the cluster asks for one."""
    tasks_per_job: int = 1
    """Tasks that one job does in turn."""
    sbatch: dict[str, str] = field(default_factory=dict)
    """Further `sbatch` options by name (account, constraint, ...)."""


@dataclass(frozen=True, kw_only=True)
class EngineConfig:
    """How stages are run. Nothing here changes what a corpus holds."""

    spread_mb: float = 16.0
    """A stage that reads less than this is done in one process: starting others takes longer."""
    disk_reserve_mb: int = 200
    """Space that must be left on the workspace's disk when a stage has written what it is expected to."""
    memory_gb: float = 1.0
    """Memory a Ray task reserves, in GB."""
    slurm: SlurmConfig = field(default_factory=SlurmConfig)
    """What Slurm is asked for."""

    def __post_init__(self) -> None:
        if self.disk_reserve_mb < 0 or self.memory_gb <= 0:
            raise ValueError("engine: disk_reserve_mb must be 0 or more, memory_gb more than 0")


class TaskFailed(Exception):  # noqa: N818 - it is one of many tasks' failures, told again by the engine
    """A task ended with an error that its `.failed` file tells."""


def do_task(context: Context, phase: Phase, task: str, owner: int) -> None:
    """Do one task and save its marker; an error is left in a `.failed` file for whoever waits.

    `owner` is the process that started the run: a `.running` file of another one is left from a run that was killed.
    TakenOver, and no word left, if the stage has begun anew with other settings: a cluster may start a task late.
    """
    check_owner(context)
    marker = context.marker(phase.name, task)
    running, failed = marker.with_suffix(".running"), marker.with_suffix(".failed")
    failed.unlink(missing_ok=True)
    write_json(running, {"pid": os.getpid(), "owner": owner})
    started = time.perf_counter()
    try:
        done = phase.run(context, task)
        check_owner(context)
        save_marker(marker, done, time.perf_counter() - started)
    except TakenOver:
        raise
    except BaseException as error:
        tell_failure(marker, task, error)
        raise
    finally:
        running.unlink(missing_ok=True)


def tell_failure(marker: Path, task: str, error: BaseException) -> None:
    """Leave what went wrong beside where the task's marker would be."""
    user = isinstance(error, (ValueError, OSError))
    told = {"message": str(error), "kind": type(error).__name__, "user": user, "task": task}
    write_json(marker.with_suffix(".failed"), told)


def run_tasks(
    context: Context,
    phase: Phase,
    index: int,
    tasks: list[str],
    executor: ExecutorName,
    workers: int,
    engine: EngineConfig,
) -> None:
    """Do all of `tasks`. ValueError or OSError if one failed by the user's input, TaskFailed if by a defect of ours.

    One local worker is this process: no other is started for it.
    """
    for task in tasks:  # what an earlier run told of them is not this one's
        for suffix in (".failed", ".running"):
            context.marker(phase.name, task).with_suffix(suffix).unlink(missing_ok=True)
    if executor == "local" and (workers == 1 or len(tasks) == 1):
        for task in tasks:
            do_task(context, phase, task, os.getpid())
        return
    logs = context.folder / "logs" / phase.name
    shutil.rmtree(logs, ignore_errors=True)
    if executor == "slurm":
        submit_to_slurm(context, phase, index, tasks, workers, engine, logs)
    else:
        spread(context, phase, index, tasks, executor, workers, engine, logs)
    raise_failures(context, phase, tasks)


def spread(
    context: Context,
    phase: Phase,
    index: int,
    tasks: list[str],
    executor: ExecutorName,
    workers: int,
    engine: EngineConfig,
    logs: Path,
) -> None:
    """Run tasks under datatrove's local or Ray executor and wait for them."""
    pipeline = [make_step(context, index, tasks)]
    if executor == "ray":
        run: PipelineExecutor = _ray_executor(pipeline, len(tasks), workers, engine, logs)
    else:
        run = _local_executor(pipeline, len(tasks), min(workers, len(tasks)), logs)
    finished = threading.Event()
    watch = threading.Thread(target=_watch_workers, args=(context, phase, finished, executor == "local"), daemon=True)
    watch.start()
    try:
        run.run()
    except Exception:
        raise_failures(context, phase, tasks)  # says it in one line where a task told what was wrong
        raise
    finally:
        finished.set()


def make_step(context: Context, index: int, tasks: list[str]) -> object:
    """The one pipeline step: rank r does task r. (The class is made here, for datatrove is slow to import.)"""
    from data.pipeline_step import StageStep

    return StageStep(context, index, tasks, os.getpid())


def _local_executor(pipeline: list[object], tasks: int, workers: int, logs: Path) -> PipelineExecutor:
    import multiprocess  # type: ignore[import-untyped]
    from datatrove.executor.local import LocalPipelineExecutor
    from loguru import logger

    from data.pipeline_step import die_with_parent

    logger.disable("datatrove")
    die_with_parent()
    # loaded once, in the server that every worker is forked from; what fails to load there is loaded by the workers
    multiprocess.set_forkserver_preload(["data.pipeline_step", "data.config", "data.deduplicate_stage"])
    return LocalPipelineExecutor(
        pipeline=pipeline, tasks=tasks, workers=workers, logging_dir=str(logs), skip_completed=False
    )


def _ray_executor(
    pipeline: list[object], tasks: int, workers: int, engine: EngineConfig, logs: Path
) -> PipelineExecutor:
    try:
        import ray
    except ImportError:
        raise ValueError("--executor ray needs Ray: pip install -e '.[ray]'") from None
    from datatrove.executor.ray import RayPipelineExecutor
    from loguru import logger

    logger.disable("datatrove")
    if not ray.is_initialized():
        paths = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
        cluster = os.environ.get("RAY_ADDRESS")  # a running one, else one is started on this machine
        ray.init(
            address=cluster,
            num_cpus=None if cluster else workers,
            include_dashboard=False,
            logging_level=logging.ERROR,
            log_to_driver=False,
            runtime_env={"env_vars": {"PYTHONPATH": paths}},
        )
    return RayPipelineExecutor(
        pipeline=pipeline,
        tasks=tasks,
        workers=workers,
        logging_dir=str(logs.resolve()),
        skip_completed=False,
        mem_per_cpu_gb=engine.memory_gb,
        # Ray starts a process for each job; four jobs a worker still even out tasks of different length
        tasks_per_job=max(1, tasks // (4 * workers)),
    )


def submit_to_slurm(
    context: Context, phase: Phase, index: int, tasks: list[str], workers: int, engine: EngineConfig, logs: Path
) -> None:
    """Submit a job array that does `tasks`, and wait until every task has its marker or has failed."""
    from datatrove.executor.slurm import SlurmPipelineExecutor

    slurm, ids = engine.slurm, JobIds()
    run = SlurmPipelineExecutor(
        pipeline=[make_step(context, index, tasks)],
        tasks=len(tasks),
        workers=workers,
        time=slurm.time,
        partition=slurm.partition,
        cpus_per_task=slurm.cpus,
        mem_per_cpu_gb=slurm.memory_gb,
        qos=slurm.qos,
        tasks_per_job=slurm.tasks_per_job,
        job_name=f"tiankong-{context.stage}-{phase.name}",
        sbatch_args=slurm.sbatch,
        venv_path=f"{sys.prefix}/bin/activate",
        logging_dir=str(logs.resolve()),
        job_id_retriever=ids,
        skip_completed=False,
    )
    try:
        run.run()
    except FileNotFoundError as error:
        if error.filename != "sbatch":
            raise
        raise FileNotFoundError(
            f"--executor slurm: no `sbatch` on this machine; the script is {logs / 'launch_script.slurm'}"
        ) from None
    jobs = ids.seen[: ids.seen.index(str(run.job_id)) + 1]  # behind them is datatrove's own, which sums statistics
    _wait_for_markers(context, phase, tasks, jobs, str(run.slurm_logs_folder))


def _wait_for_markers(context: Context, phase: Phase, tasks: list[str], jobs: list[str], logs: str) -> None:
    """Wait until each task has its marker or has failed. OSError if the jobs left the queue and one has neither."""
    asked, gone = time.monotonic(), float("inf")
    while missing := [task for task in tasks if not context.marker(phase.name, task).exists()]:
        raise_failures(context, phase, tasks, missing=False)
        if time.monotonic() - asked >= QUEUE_SECONDS:
            asked = time.monotonic()
            gone = min(gone, asked) if left_queue(jobs) else float("inf")
        if time.monotonic() - gone > GRACE_SECONDS:
            more = f" and {len(missing) - 5} more" if len(missing) > 5 else ""
            raise OSError(
                f"{context.stage} {phase.name}: Slurm's job {', '.join(jobs)} has left the queue, but {len(missing)} "
                f"of {len(tasks)} tasks left no marker ({', '.join(missing[:5])}{more}): killed for time or memory, or "
                f"cancelled? Logs: {logs}. What is done is kept: run again, with more engine.slurm.time or memory_gb "
                "if they were short"
            )
        time.sleep(POLL_SECONDS)


def raise_failures(context: Context, phase: Phase, tasks: list[str], missing: bool = True) -> None:
    """Raise what the first failed task has told; with `missing`, a task without marker is a failure too."""
    for task in tasks:
        marker = context.marker(phase.name, task)
        failed = marker.with_suffix(".failed")
        if failed.exists():
            told = read_json(failed)
            if told["user"]:
                raise ValueError(str(told["message"]))
            raise TaskFailed(f"{context.stage} {phase.name} {task}: {told['kind']}: {told['message']}")
    for task in tasks:
        if missing and not context.marker(phase.name, task).exists():
            raise TaskFailed(f"{context.stage} {phase.name} {task} ended without a word; see {context.folder}/progress")


def _watch_workers(context: Context, phase: Phase, finished: threading.Event, local: bool) -> None:
    """End the run with one line when a worker process was killed: a process pool would wait for it for ever."""
    folder = context.marker(phase.name, "x").parent
    heard, seen = time.monotonic(), -1
    while local and not finished.wait(1.0):
        running_or_done = [path.name for path in folder.glob("*") if path.suffix in (".json", ".running", ".partial")]
        if hash(frozenset(running_or_done)) != seen or any(name.endswith(".running") for name in running_or_done):
            heard, seen = time.monotonic(), hash(frozenset(running_or_done))
        if time.monotonic() - heard > SILENCE_SECONDS:
            _end(f"error: the workers of {context.stage} {phase.name} do nothing; what is done is kept: run again")
        for running in folder.glob("*.running"):
            try:
                told = read_json(running)
            except (FileNotFoundError, ValueError):
                continue
            if told.get("owner") != os.getpid():
                continue
            if not _alive(int(str(told["pid"]))) and running.exists() and not finished.is_set():
                _end(
                    f"error: the worker that did {context.stage} {phase.name} {running.stem} was killed (out of "
                    "memory?); what is done is kept: run again, with fewer --workers if memory is short"
                )


def _end(line: str) -> None:
    """End this process at once: its main thread waits in a pool that cannot be told."""
    print(line, file=sys.stderr, flush=True)
    os._exit(1)


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    try:  # a killed child that nobody has waited for is still in the table
        return Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[0] != "Z"
    except (OSError, IndexError):
        return True
