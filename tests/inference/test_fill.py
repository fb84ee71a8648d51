"""A filled blank is read and numbered as in training, and its probabilities are the model's."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from command_line import run_commands
from inference.__main__ import export_command, fill_command, generate_command
from inference.fill import fill, mask_tasks
from inference.generate import generate
from inference.load import LoadedRun, find_checkpoint, load_run
from inference.rows import Row, span_position
from inference.sampling import SamplingConfig, choose
from objectives.blank_infilling import BlankInfilling, numbering_of, source_stride
from objectives.config import BlankInfillingConfig
from objectives.source import SourceRows
from tests.tiny_run import EXPERTS_MODEL, arguments, run_config, stage
from trainer.__main__ import pretrain_command

TEXT = "清晨[MASK]照进窗户，the light [MASK] through."


@pytest.fixture(scope="module")
def blanks(blanks_run: Path) -> LoadedRun:
    return load_run(blanks_run)


def test_probabilities_are_the_models(blanks: LoadedRun) -> None:
    """One pass over the finished row with the true end gives each token the probability that fill reported."""
    special = blanks.tokenizer.special
    filled = fill(blanks.model, blanks.tokenizer, blanks.objective, TEXT, max_tokens=5)
    assert len(filled.blanks) == 2
    assert "[MASK]" not in filled.text
    ids = blanks.tokenizer.encode_prompt(TEXT)
    row = Row(list(ids), len(ids))
    places = [index for index, token in enumerate(ids) if token == special.mask]
    reported, expected = [], []
    for place, blank in zip(places, filled.blanks, strict=True):
        begin = len(row)
        span = blanks.tokenizer.encode(blank.text)
        row.append(special.sop, place, 1)
        for number, token in enumerate(span):
            row.append(token, place, number + 2)
        logits = blanks.model(**row.inputs(torch.device("cpu"))).logits[0].detach()
        allowed = torch.tensor(blanks.tokenizer.byte_lengths > 0)
        allowed[special.eop] = True
        scores = logits.masked_fill(~allowed, float("-inf")).softmax(dim=-1)
        targets = [*span, special.eop][: len(blank.probabilities)]
        expected += [float(scores[begin + i, token]) for i, token in enumerate(targets)]
        reported += blank.probabilities
        assert blank.probability == pytest.approx(math.prod(blank.probabilities))
    assert reported == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("positions", ["glm130b", "glm", "multi_task"])
@pytest.mark.parametrize("task", ["mask", "document"])
def test_rows_are_numbered_as_in_training(blanks: LoadedRun, positions: str, task: str) -> None:
    """Rebuild a training row with inference's rows, and compare every array that the model reads."""
    special = blanks.tokenizer.special
    config = BlankInfillingConfig(positions=positions, mask_windows=1, short_sequence_probability=0.0)
    window = 64
    builder = BlankInfilling(config, window, special)
    length = source_stride(config, task, window)
    source = SourceRows(np.arange(20, 20 + length)[None], np.zeros(0, np.int64), np.zeros(1, np.bool_))
    batch = builder.build(task, source, np.array([5], np.uint64))
    used = int((batch.document[0] == 0).sum())
    context = int(batch.context_end[0, 0])
    tokens = batch.tokens[0, :used].tolist()
    row = Row(tokens[:context], context, positions == "glm")
    numbering = numbering_of(config, task)
    marks = [i for i, token in enumerate(tokens[:context]) if token in mask_tasks(blanks.tokenizer)]
    # Training shuffles the spans: find each one's mask by the position that training gave it.
    first = batch.positions[0, 0] if positions == "glm" else batch.positions[0]
    number, place = 0, 0
    for index in range(context, used):
        number = 0 if tokens[index] == special.sop else number + 1
        if number == 0:
            place = marks[0] if len(marks) == 1 else int(first[index])
        row.append(tokens[index], *span_position(numbering, place, len(row), number))
    assert len(row) > context + 1
    inputs = row.inputs(torch.device("cpu"))
    assert np.array_equal(inputs["positions"][0].numpy(), batch.positions[0, ..., :used])
    assert inputs["context_end"][0].tolist() == batch.context_end[0, :used].tolist()


def test_generation_is_greedy_and_reproducible(causal_run: Path) -> None:
    run = load_run(causal_run)
    one, two = (generate(run.model, run.tokenizer, run.objective, "the light", max_tokens=6) for _ in range(2))
    assert one == two
    assert one.tokens <= 6
    drawn = SamplingConfig(temperature=1.0, top_k=20, top_p=0.9)
    texts = {
        generate(run.model, run.tokenizer, run.objective, "the", sampling=drawn, max_tokens=8, seed=seed).text
        for seed in range(4)
    }
    assert len(texts) > 1


def test_top_k_and_top_p_leave_out_the_unlikely() -> None:
    scores = torch.tensor([0.5, 0.3, 0.15, 0.05]).log()
    generator = torch.Generator().manual_seed(0)
    pick = [choose(scores, SamplingConfig(temperature=1.0, top_p=0.6), generator) for _ in range(200)]
    assert set(pick) == {0, 1}
    assert {choose(scores, SamplingConfig(temperature=1.0, top_k=1), generator) for _ in range(20)} == {0}
    assert choose(scores, SamplingConfig(), generator) == 0


@pytest.mark.parametrize("temperature", [1e-46, 1e-12])
def test_a_very_low_temperature_takes_the_likeliest(temperature: float) -> None:
    scores = torch.tensor([0.3, 0.5, 0.2, 0.0]).log()
    assert choose(scores, SamplingConfig(temperature=temperature), torch.Generator().manual_seed(0)) == 1


@pytest.mark.parametrize(
    ("field", "value"),
    [("temperature", -0.1), ("temperature", math.inf), ("temperature", math.nan), ("top_k", -1), ("top_p", 0.0)],
)
def test_a_wrong_sampling_number_is_named(field: str, value: float) -> None:
    with pytest.raises(ValueError, match=f"^{field}: expected"):
        SamplingConfig(**{field: value})


def test_every_blank_has_room_within_the_models_positions(blanks: LoadedRun) -> None:
    """A first blank that goes on and on leaves the later ones a token each, and none is said to have been ended."""
    length = len(blanks.tokenizer.encode_prompt(TEXT))
    for most in (length + 4, length + 9):
        filled = fill(
            blanks.model, blanks.tokenizer, blanks.objective, TEXT, max_tokens=50, max_positions=most,
            sampling=SamplingConfig(temperature=20.0),
        )  # fmt: skip
        assert [len(blank.probabilities) for blank in filled.blanks] == [most - length - 3, 1]
    with pytest.raises(ValueError, match="too many for the model's"):
        fill(blanks.model, blanks.tokenizer, blanks.objective, TEXT, max_positions=length + 3)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda config: config.pop("seed"), "it lacks 'seed'"),
        (lambda config: config["stages"][0].pop("objective"), "it lacks 'objective'"),
        (lambda config: config["stages"][0]["data"].pop("window"), "it lacks 'window'"),
        (lambda config: config.update(stages=[]), "list index out of range"),
        (lambda config: config.update(model=3), "not the configuration of a run"),
        (lambda config: config["model"].update(widht=3), "widht"),
    ],
)
def test_a_damaged_configuration_is_one_line(
    blanks_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], change: Callable, expected: str
) -> None:
    shutil.copytree(blanks_run, tmp_path / "run")
    path = find_checkpoint(tmp_path / "run") / "config.yaml"
    config = yaml.safe_load(path.read_text(encoding="utf-8"))
    change(config)
    path.write_text(yaml.safe_dump(config), encoding="utf-8")
    capsys.readouterr()
    code, _, err = run_command(capsys, "fill", "--run", str(tmp_path / "run"), "--text", TEXT)
    assert (code, err.count("\n")) == (1, 1)
    assert f"{path}: not the configuration of a run" in err
    assert expected in err


def run_command(capsys: pytest.CaptureFixture[str], name: str, *words: str) -> tuple[int, str, str]:
    commands = {"fill": (fill_command, ""), "generate": (generate_command, ""), "export": (export_command, "")}
    code = run_commands("python -m inference", commands, [name, *words])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_command_lines(blanks_run: Path, causal_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    capsys.readouterr()
    code, out, _ = run_command(capsys, "fill", "--run", str(blanks_run), "--text", TEXT, "--json", "--max_tokens", "3")
    fills = json.loads(out)["fills"]
    assert code == 0
    assert len(fills[0]["blanks"]) == 2
    code, _, err = run_command(capsys, "fill", "--run", str(causal_run), "--text", TEXT)
    assert (code, err.count("\n")) == (1, 1)
    assert "not trained to fill blanks" in err
    code, _, err = run_command(capsys, "fill", "--run", str(blanks_run), "--text", "no blank here")
    assert (code, err.count("\n")) == (1, 1)
    code, _, err = run_command(capsys, "fill", "--run", str(tmp_path / "none"), "--text", TEXT)
    assert (code, err.count("\n")) == (1, 1)
    code, _, err = run_command(capsys, "fill", "--run", str(blanks_run), "--text", TEXT, "--device", "abacus")
    assert (code, err.count("\n")) == (1, 1)
    assert "--device abacus" in err
    code, _, err = run_command(capsys, "generate", "--run", str(causal_run), "--text", "")
    assert (code, err.count("\n")) == (1, 1)
    assert "the text is empty" in err
    code, out, _ = run_command(capsys, "generate", "--run", str(causal_run), "--text", "the", "--max_tokens", "3")
    assert code == 0
    assert out.startswith("the")


@pytest.mark.parametrize(
    "line", [b"\xff\xfe", b'{"text": null}', b'{"txt": "a[MASK]"}', b'["a[MASK]"]', b"a[MASK]", b'"a[MASK]"']
)
def test_a_line_that_is_no_text_is_named(
    blanks_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], line: bytes
) -> None:
    path = tmp_path / "texts.jsonl"
    path.write_bytes(b'{"text": "a[MASK]"}\n\n' + line + b"\n")
    capsys.readouterr()
    code, _, err = run_command(capsys, "fill", "--run", str(blanks_run), "--input", str(path))
    assert (code, err) == (1, f"error: {path}:3: expected a JSON object with the string `text`\n")
    words = ["--input", str(path), "--limit", "2", "--max_tokens", "2"]
    assert run_command(capsys, "fill", "--run", str(blanks_run), *words)[0] == 0


def test_an_exported_model_is_the_same_model(
    causal_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    transformers = pytest.importorskip("transformers")
    code, _, err = run_command(capsys, "export", "--run", str(causal_run), "--output", str(tmp_path / "hf"))
    assert code == 0, err
    run = load_run(causal_run)
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "hf", dtype=torch.float32)
    tokens = torch.tensor([run.tokenizer.encode("the morning light came through window")])
    with torch.no_grad():
        torch.testing.assert_close(run.model(tokens).logits, theirs(tokens).logits, rtol=1e-4, atol=1e-4)


def test_an_exported_model_attends_as_its_stage_did(
    workspace: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Past its top-k, densely from a dense stage and sparsely from a sparse one; and with RoPE's base of the stage.

    With 16 heads no two keys score the same 0, of which either could be selected.
    """
    transformers = pytest.importorskip("transformers")
    attention = {**EXPERTS_MODEL["attention"], "indexer": {"num_heads": 16, "head_dim": 8, "top_k": 4}}
    stages = [
        stage("dense", 1, "causal", rope_base=300.0),
        stage("sparse", 1, "causal", sparse_attention="sparse"),
    ]
    config = run_config(*stages, model={**EXPERTS_MODEL, "attention": attention}, checkpoint={"every": 1})
    assert pretrain_command(arguments(workspace, tmp_path / "run", config)) == 0
    capsys.readouterr()
    found = []
    for step in (1, 2):
        folder = str(tmp_path / f"hf{step}")
        words = ["export", "--run", str(tmp_path / "run"), "--step", str(step), "--output", folder]
        code, _, err = run_command(capsys, *words)
        assert code == 0, err
        run = load_run(tmp_path / "run", step)
        theirs = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
        assert theirs.config.rope_parameters["rope_theta"] == 300.0
        tokens = torch.tensor([run.tokenizer.encode("the morning light came through window and street")])
        with torch.no_grad():
            ours = run.model(tokens).logits
            torch.testing.assert_close(ours, theirs(tokens).logits, rtol=1e-4, atol=1e-4)
            run.model.set_sparse_attention("off" if step == 2 else "sparse")
            found.append((run.model(tokens).logits - ours).abs().max())
    assert min(found) > 1e-3


def test_a_step_that_is_not_there(blanks_run: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no checkpoint of step 17; there are"):
        find_checkpoint(blanks_run, 17)
