"""The engine: the order of stages, what is up to date, what is stale and why, one corpus however it is run."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from data.config import CorpusConfig
from data.deduplicate import DeduplicateConfig, RepeatedLinesConfig
from data.engine import RunOptions, curve_line, run_stage, workspace_lock
from data.filter import Bound, Thresholds
from data.minhash import catch_probability, describe
from data.mix import MixConfig
from data.pipeline import EngineConfig, SlurmConfig, do_task
from data.records import read_record
from data.shards import write_json
from data.sources import SourceConfig
from data.stage import Context, Done, Phase, Stage, one_task
from data.stages import declared, in_order, order, stage_named
from tests.data.small_corpus import STAGES, configuration, digests, examination, record, run, write_inputs
from tokenizer.config import SampleConfig, TokenizerConfig
from tokenizer.train import train as train_tokenizer


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_inputs(tmp_path_factory.mktemp("inputs"))


@pytest.fixture(scope="module")
def finished(inputs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    workspace = tmp_path_factory.mktemp("finished")
    run(configuration(inputs), workspace)
    return workspace


@pytest.fixture
def workspace(finished: Path, tmp_path: Path) -> Path:
    """A finished workspace of the test's own."""
    return Path(shutil.copytree(finished, tmp_path / "workspace"))


def stage(name: str, *reads: str) -> Stage:
    return Stage(name=name, reads=reads, writes=("kept",), settings=lambda config: None, phases=())  # noqa: ARG005


def test_stages_come_after_what_they_read() -> None:
    names = [one.name for one in in_order()]
    assert names == [*STAGES, "tokenize", "report"]
    assert [one.name for one in order(declared()[::-1])] == names


def test_wiring_that_cannot_be_is_refused() -> None:
    with pytest.raises(RuntimeError, match="which no stage writes"):
        order([stage("a", "absent/kept")])
    with pytest.raises(RuntimeError, match="one another"):
        order([stage("a", "b/kept"), stage("b", "a/kept")])


def test_counts_add_up_from_stage_to_stage(finished: Path) -> None:
    before = None
    for name in STAGES[:-1]:
        counts = record(finished, name)["counts"]
        read, kept, rejected = (counts.get(part, {}).get("documents", 0) for part in ("read", "kept", "rejected"))
        assert read == kept + rejected
        assert before is None or read == before
        before = kept
    mix = record(finished, "mix")["counts"]
    assert mix["read"]["documents"] == before == mix["taken"]["documents"] + mix["left"]["documents"]
    written = mix["train"]["documents"] + mix["validation"]["documents"]
    assert written == mix["taken"]["documents"] + mix["repeated"]["documents"]


def test_every_document_is_kept_or_rejected_once(finished: Path) -> None:
    ingested = set(pl.read_parquet(finished / "ingest" / "kept" / "*.parquet")["id"])
    left = list(pl.read_parquet(finished / "decontaminate" / "kept" / "*.parquet")["id"])
    for name in ("filter", "deduplicate", "decontaminate"):
        left += pl.read_parquet(finished / name / "rejected" / "*.parquet")["id"].to_list()
    assert len(left) == len(set(left))
    assert set(left) == ingested


def test_record_is_complete(finished: Path) -> None:
    filter_record = record(finished, "filter")
    assert filter_record["config"]["preset"] == "web"
    assert filter_record["config"]["alarm_share"] > 0
    assert filter_record["inputs"].keys() == {"annotate"}
    assert filter_record["run"].keys() >= {"seconds", "host", "workers", "versions"}
    for name, file in filter_record["files"].items():
        path = finished / "filter" / name
        assert path.stat().st_size == file["file_bytes"]
        assert pl.read_parquet(path).height == file["documents"]


def test_up_to_date_stages_are_skipped(workspace: Path, inputs: Path) -> None:
    before = digests(workspace)
    figures = run(configuration(inputs), workspace)
    assert all(figures[name]["skipped"] for name in STAGES)
    assert digests(workspace) == before


def skipped(figures: dict[str, Any]) -> list[str]:
    return [name for name, part in figures.items() if part["skipped"]]


def test_changed_setting_rebuilds_its_stage_and_what_comes_after(
    workspace: Path, inputs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = configuration(inputs)
    changed = replace(config, redact=replace(config.redact, placeholder="[{type}]"))
    figures = run(changed, workspace)
    assert skipped(figures) == list(STAGES[:4])
    told = capsys.readouterr().err
    assert "redact: stale (placeholder: '<{type}>' -> '[{type}]'), rebuilt" in told
    assert "decontaminate: stale (redact changed), rebuilt" in told


def test_source_weight_concerns_the_mix_alone(inputs: Path, tmp_path: Path) -> None:
    def config(weight: float) -> Any:
        return configuration(inputs, sources=[SourceConfig(path=str(inputs), name="all", weight=weight)])

    run(config(1.0), tmp_path)
    assert skipped(run(config(2.0), tmp_path)) == list(STAGES[:-1])


def test_changed_input_file_is_noticed(tmp_path: Path) -> None:
    inputs = write_inputs(tmp_path / "in", documents=8)
    workspace = tmp_path / "w"
    run(configuration(inputs), workspace, "ingest")
    for path in inputs.iterdir():
        os.utime(path)  # touched, not changed
    assert skipped(run(configuration(inputs), workspace, "ingest")) == ["ingest"]
    text = (inputs / "a.jsonl").read_text(encoding="utf-8")
    (inputs / "a.jsonl").write_text(text.replace("d0", "e0"), encoding="utf-8")
    assert skipped(run(configuration(inputs), workspace, "ingest")) == []


def test_leftovers_of_another_configuration_are_not_mixed_in(workspace: Path, inputs: Path, tmp_path: Path) -> None:
    """A stage begun with one configuration and cut short gives nothing to another configuration's corpus."""
    config = configuration(inputs, mix=MixConfig(shard_mb=0.02, validation_share=0.1, seed=5))
    run(config, tmp_path / "fresh")
    (workspace / "mix" / "stage.json").unlink()
    (workspace / "mix" / "progress").mkdir()
    (workspace / "mix" / "progress" / "key.json").write_text('{"key": "another"}')
    shutil.copy(workspace / "mix" / "train" / "00000.parquet", workspace / "mix" / "train" / "00099.parquet")
    run(config, workspace)
    assert digests(workspace)["mix"] == digests(tmp_path / "fresh")["mix"]
    written = {path.name for path in (workspace / "mix" / "train").iterdir()}
    assert "00099.parquet" not in written


def test_missing_shard_is_noticed(workspace: Path, inputs: Path) -> None:
    before = digests(workspace)
    sorted((workspace / "redact" / "kept").glob("*.parquet"))[0].unlink()
    figures = run(configuration(inputs), workspace)
    assert "redact" not in skipped(figures)
    assert digests(workspace) == before


def test_folder_that_is_not_ours_is_left_alone(tmp_path: Path, inputs: Path) -> None:
    (tmp_path / "ingest").mkdir()
    (tmp_path / "ingest" / "thesis.txt").write_text("years of work")
    with pytest.raises(ValueError, match="no stage has recorded"):
        run(configuration(inputs), tmp_path, "ingest")
    assert (tmp_path / "ingest" / "thesis.txt").exists()


def test_stage_without_its_input_names_what_to_run(tmp_path: Path, inputs: Path) -> None:
    with pytest.raises(FileNotFoundError, match="python -m data annotate"):
        run(configuration(inputs), tmp_path, "filter")


def test_stage_that_rests_on_what_is_stale_names_what_to_run(workspace: Path, inputs: Path) -> None:
    """A stage made anew by itself makes those after it stale; one further on must not take them for fresh."""
    config = configuration(inputs)
    changed = replace(config, filter=replace(config.filter, thresholds=Thresholds(zh={"words": Bound(min=60)})))
    run(changed, workspace, "filter")
    for name in ("redact", "mix", "report"):
        with pytest.raises(ValueError, match="python -m data deduplicate"):
            run(changed, workspace, name)
    run(changed, workspace)
    run(changed, workspace, "report")


def test_report_leaves_out_tokens_of_an_older_mix(workspace: Path, inputs: Path, tmp_path: Path) -> None:
    folder, config = tmp_path / "tokenizer", configuration(inputs)
    train = sorted((workspace / "mix" / "train").glob("*.parquet"))
    train_tokenizer(TokenizerConfig(vocab_size=700, sample=SampleConfig(megabytes=1)), train, folder)
    run(config, workspace, "tokenize", "report", tokenizer=folder)
    assert "token shards" in (workspace / "report.html").read_text(encoding="utf-8")
    other = replace(config, mix=MixConfig(shard_mb=0.05, validation_share=0.1, seed=3))
    run(other, workspace, "mix", "report")
    assert "token shards" not in (workspace / "report.html").read_text(encoding="utf-8")


def test_stage_whose_input_lost_everything_says_why(tmp_path: Path, inputs: Path) -> None:
    config = configuration(inputs)
    config = replace(config, filter=replace(config.filter, languages=["other"]))
    with pytest.raises(ValueError, match="deduplicate has nothing to read: filter rejected every document"):
        run(config, tmp_path)


def test_workspace_is_held_by_one_run(tmp_path: Path, inputs: Path) -> None:
    with workspace_lock(tmp_path), pytest.raises(OSError, match="in use by another run"):
        run(configuration(inputs), tmp_path, "ingest")


def test_limit_is_spread_over_files_and_shards(workspace: Path, inputs: Path, tmp_path: Path) -> None:
    run(configuration(inputs), tmp_path, "ingest", limit=9)
    assert record(tmp_path, "ingest")["counts"]["read"]["documents"] == 9
    run_stage(stage_named("annotate"), configuration(inputs), RunOptions(workspace=workspace), limit=7)
    assert record(workspace, "annotate")["counts"]["read"]["documents"] == 7


@pytest.fixture(scope="module")
def examined(inputs: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[CorpusConfig, dict[str, Any]]:
    """A configuration in which every stage changes something, and the digests of all stages by one worker."""
    folder = tmp_path_factory.mktemp("examined")
    config = configuration(inputs, decontaminate=examination(folder))
    run(config, folder / "w")
    assert record(folder / "w", "deduplicate")["counts"]["rejected"]["documents"] > 0
    assert record(folder / "w", "decontaminate")["counts"]["documents_cut"] > 0
    return config, digests(folder / "w")


def test_two_workers_give_the_same_corpus(examined: tuple[CorpusConfig, dict[str, Any]], tmp_path: Path) -> None:
    config, expected = examined
    run(config, tmp_path, workers=2)
    assert set(expected) == set(STAGES)
    assert digests(tmp_path) == expected
    assert all(record(tmp_path, name)["run"]["workers"] == 2 for name in STAGES)


@pytest.mark.slow
def test_ray_gives_the_same_corpus(examined: tuple[CorpusConfig, dict[str, Any]], tmp_path: Path) -> None:
    pytest.importorskip("ray")
    import ray

    config, expected = examined
    try:
        run(config, tmp_path, workers=2, executor="ray")
    finally:
        ray.shutdown()
    assert digests(tmp_path) == expected
    assert all(record(tmp_path, name)["run"]["executor"] == "ray" for name in STAGES)


SBATCH = """#!{python}
import os, re, subprocess, sys
script = open(sys.argv[-1]).read()
log = open({log!r}, "a")
log.write(script)
array = re.search(r"--array=0-(\\d+)", script)
if array and "merge_stats" not in script:
    lines = script.splitlines()
    command = [line for line in lines if line.startswith("srun")][0].split("launch_pickled_pipeline")[1].strip()
    for number in range(int(array.group(1)) + 1):
        if number == {killed!r} and "-ingest-read" in script:
            continue
        env = os.environ | {{"SLURM_ARRAY_TASK_ID": str(number), "SLURM_NODELIST": "here", "SLURM_JOB_ID": "1"}}
        subprocess.run([{launcher!r}, command], env=env, check=True, stdout=log, stderr=log)
print("Submitted batch job 1")
"""


def put_slurm_on_path(folder: Path, monkeypatch: pytest.MonkeyPatch, killed: int = -1, squeue: str = "") -> Path:
    """Stand-ins for Slurm's commands that run the array's jobs here, one after another, but for the one `killed`.

    Returns the file that what was submitted is written to; `squeue` is the body of a shell script.
    """
    tools, log = folder / "bin", folder / "log"
    tools.mkdir()
    launcher = str(Path(sys.executable).parent / "launch_pickled_pipeline")
    sbatch = SBATCH.format(python=sys.executable, log=str(log), launcher=launcher, killed=killed)
    (tools / "sbatch").write_text(sbatch)
    (tools / "scontrol").write_text("#!/bin/sh\necho here\n")
    (tools / "squeue").write_text(f"#!/bin/sh\n{squeue}\n")
    for tool in tools.iterdir():
        tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tools}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[2]))
    return log


def test_slurm_script_is_written_and_does_the_tasks(
    finished: Path, inputs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = put_slurm_on_path(tmp_path, monkeypatch)
    slurm = SlurmConfig(partition="thin", time="1:00:00", tasks_per_job=10, sbatch={"account": "corpus"})
    config = configuration(inputs, engine=EngineConfig(disk_reserve_mb=0, spread_mb=0, slurm=slurm))
    run(config, tmp_path / "w", "ingest", executor="slurm", workers=3)
    assert digests(tmp_path / "w")["ingest"] == digests(finished)["ingest"]
    script = log.read_text()
    for line in ("--partition=thin", "--time=1:00:00", "--account=corpus", "--job-name=tiankong-ingest-read", "%3"):
        assert line in script


@pytest.mark.parametrize("forgotten", [True, False])
def test_slurm_job_that_was_killed_ends_the_run_with_one_line(
    finished: Path, inputs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, forgotten: bool
) -> None:
    """Held back once by a controller that does not answer and once by a job still there, then it is certain."""
    asked = tmp_path / "asked"
    ended = "echo 'slurm_load_jobs error: Invalid job id specified' >&2; exit 1" if forgotten else "echo OUT_OF_MEMORY"
    squeue = f"""echo "$@" >> {asked}
case $(wc -l < {asked}) in
1) echo 'slurm_load_jobs error: Unable to contact slurm controller' >&2; exit 1;;
2) echo RUNNING;;
*) {ended};;
esac"""
    put_slurm_on_path(tmp_path, monkeypatch, killed=1, squeue=squeue)
    for name, seconds in (("POLL", 0.02), ("QUEUE", 0.05), ("GRACE", 0.2)):
        monkeypatch.setattr(f"data.pipeline.{name}_SECONDS", seconds)
    with pytest.raises(OSError, match="ingest read: Slurm's job 1 has left the queue") as told:
        run(configuration(inputs), tmp_path / "w", "ingest", executor="slurm", workers=3)
    assert "1 of 3 tasks left no marker (00001)" in str(told.value)
    assert str(tmp_path / "w" / "ingest" / "logs" / "read" / "slurm_logs") in str(told.value)
    assert "run again" in str(told.value)
    assert len(asked.read_text().splitlines()) > 3
    assert "--jobs=1 " in asked.read_text()
    run(configuration(inputs), tmp_path / "w", "ingest")
    assert digests(tmp_path / "w")["ingest"] == digests(finished)["ingest"]


def test_marker_that_appears_after_its_job_left_the_queue_is_waited_for(
    finished: Path, inputs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file system may be later than the queue."""
    launcher = Path(sys.executable).parent / "launch_pickled_pipeline"
    pickled = tmp_path / "w" / "ingest" / "logs" / "read" / "executor.pik"
    squeue = f"SLURM_ARRAY_TASK_ID=1 SLURM_NODELIST=here SLURM_JOB_ID=1 {launcher} {pickled} >/dev/null 2>&1"
    put_slurm_on_path(tmp_path, monkeypatch, killed=1, squeue=squeue)
    for name, seconds in (("POLL", 0.02), ("QUEUE", 0.05), ("GRACE", 60.0)):
        monkeypatch.setattr(f"data.pipeline.{name}_SECONDS", seconds)
    run(configuration(inputs), tmp_path / "w", "ingest", executor="slurm", workers=3)
    assert digests(tmp_path / "w")["ingest"] == digests(finished)["ingest"]


def test_slurm_without_sbatch_says_where_the_script_is(tmp_path: Path, inputs: Path) -> None:
    if shutil.which("sbatch"):
        pytest.skip("this machine has Slurm")
    with pytest.raises(FileNotFoundError, match="no `sbatch`"):
        run(configuration(inputs), tmp_path, "ingest", executor="slurm")
    (script,) = tmp_path.rglob("launch_script.slurm")
    done = subprocess.run(["bash", "-n", str(script)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_worker_of_a_killed_run_is_not_taken_for_ours(
    inputs: Path, finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A killed run leaves `.running` files of processes that are gone; the next run goes on all the same."""
    monkeypatch.setattr("data.engine.run_tasks", lambda *given: (_ for _ in ()).throw(KeyboardInterrupt))  # noqa: ARG005
    with pytest.raises(KeyboardInterrupt):
        run(configuration(inputs), tmp_path, "ingest")
    monkeypatch.undo()
    folder = tmp_path / "ingest" / "progress" / "read"
    folder.mkdir(parents=True)
    (folder / "00003.running").write_text('{"pid": 4194303, "owner": 4194302}')
    run(configuration(inputs), tmp_path, "ingest", workers=2)
    assert digests(tmp_path)["ingest"] == digests(finished)["ingest"]


@pytest.mark.parametrize("taken_over", ["before", "while"])
def test_task_of_a_run_that_was_taken_over_leaves_no_word(tmp_path: Path, inputs: Path, taken_over: str) -> None:
    """A cluster may begin or end a task when another run, of other settings, has begun the stage anew."""
    key = tmp_path / "digest" / "progress" / "key.json"
    given = Context(workspace=tmp_path, stage="digest", reads=(), config=configuration(inputs), key="old")

    def body(context: Context, task: str) -> Done:  # noqa: ARG001
        write_json(key, {"key": "new"})
        return Done()

    write_json(key, {"key": "new" if taken_over == "before" else "old"})
    phase = Phase(name="digest", tasks=one_task, run=body)
    with pytest.raises(RuntimeError, match="taken over"):
        do_task(given, phase, "all", os.getpid())
    assert [path.name for path in given.marker("digest", "all").parent.glob("*")] == []


def test_worker_that_is_killed_ends_the_run_with_one_line(inputs: Path, project: Path, tmp_path: Path) -> None:
    """A pool waits for ever for a worker that the kernel killed; the run must not."""
    code = f"""
import os, signal, sys
sys.path.insert(0, {str(project)!r})
from pathlib import Path
if __name__ == "__main__":
    import threading, time
    from tests.data.small_corpus import configuration, run
    inputs, workspace = Path({str(inputs)!r}), Path({str(tmp_path)!r})
    def shoot():
        while True:
            for path in workspace.glob("ingest/progress/read/*.running"):
                try:
                    os.kill(int(__import__("json").loads(path.read_text())["pid"]), signal.SIGKILL)
                    return
                except (ValueError, OSError):
                    pass
            time.sleep(0.005)
    threading.Thread(target=shoot, daemon=True).start()
    run(configuration(inputs), workspace, "ingest", workers=2)
"""
    script = tmp_path / "run.py"
    script.write_text(code)
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 1
    assert "was killed" in done.stderr
    run(configuration(inputs), tmp_path, "ingest")
    assert read_record(tmp_path, "ingest") is not None


@pytest.mark.parametrize(("bands", "rows"), [(32, 4), (14, 8), (20, 5), (1, 1), (256, 1)])
def test_line_of_the_s_curve_is_what_the_curve_says(bands: int, rows: int) -> None:
    pattern = r"S-curve: .* at J ([\d.]+); (\d+)% at 0.4, (\d+)% at 0.6, (\d+)% at 0.8"
    said = re.fullmatch(pattern, curve_line(bands, rows))
    assert said
    half = float(said[1])
    assert catch_probability(half - 0.005, bands, rows) <= 0.5 <= catch_probability(half + 0.005, bands, rows)
    caught = {round(jaccard, 2): probability for jaccard, probability in describe(bands, rows)}
    assert [int(share) for share in said.groups()[1:]] == [round(100 * caught[jaccard]) for jaccard in (0.4, 0.6, 0.8)]


def test_s_curve_is_said_when_near_copies_were_sought(
    inputs: Path, workspace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = configuration(inputs)
    line = "S-curve: half of the pairs become candidates at J 0.38; 56% at 0.4, 99% at 0.6, 100% at 0.8"
    shutil.rmtree(workspace / "deduplicate")
    run(config, workspace, "deduplicate")
    assert line in capsys.readouterr().err
    run(replace(config, deduplicate=replace(config.deduplicate, near=False)), workspace, "deduplicate")
    assert "S-curve" not in capsys.readouterr().err


def test_lines_that_are_not_to_be_removed_are_not_counted(workspace: Path, inputs: Path) -> None:
    before = digests(workspace)["deduplicate"]  # no line of these inputs is repeated
    config = configuration(inputs, deduplicate=DeduplicateConfig(lines=RepeatedLinesConfig(enabled=False)))
    run(config, workspace, "deduplicate")
    assert "repeated_lines" not in record(workspace, "deduplicate")["counts"]
    assert digests(workspace)["deduplicate"] == before


def test_rule_that_takes_too_much_raises_an_alarm(
    inputs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = configuration(inputs)
    long = {"words": Bound(min=600)}
    strict = replace(config.filter, thresholds=Thresholds(zh=long, mixed=long))
    run(replace(config, filter=strict), tmp_path, "ingest", "annotate", "filter")
    filtered = record(tmp_path, "filter")
    (alarm,) = [line for line in filtered["facts"]["alarms"] if " in zh" in line]
    assert alarm in capsys.readouterr().err
    taken = filtered["counts"]["rejected_by_language_and_rule"]["zh"]["filter.words"]["documents"]
    assert f"rejected {taken} of" in alarm
