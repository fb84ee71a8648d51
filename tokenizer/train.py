"""Train a tokenizer from a configuration and a corpus, and write its folder.

What would only fail after an hour is asked first: can the vocabulary hold the special tokens, is there text in every
language, is there memory, can the output be written.
"""

import os
import resource
import sys
import time
from pathlib import Path

import tokenizers

from tokenizer.byte_level import merge_byte_levels, train_byte_level
from tokenizer.config import HanRule, TokenizerConfig
from tokenizer.folder import add_special_tokens, write_folder
from tokenizer.sample import Sample, plan_sample
from tokenizer.special_tokens import layout_tokens

_GIGABYTE = 1e9
_BASE_MEMORY = 0.4e9
_BYTES_PER_CHINESE_BYTE: dict[HanRule, int] = {
    "with_letters": 90,
    "with_punctuation": 90,
    "apart": 82,
    "runs_of_8": 75,
    "runs_of_4": 50,
    "runs_of_2": 16,
    "runs_of_1": 6,
}
_BYTES_PER_OTHER_BYTE = 12
_SENTENCEPIECE_BYTES_PER_BYTE = {"sentencepiece_bpe": (36, 12), "sentencepiece_unigram": (25, 25)}
"""For each byte of Chinese and of other text: BPE keeps its words apart, unigram a suffix array over all text."""


def train(config: TokenizerConfig, paths: list[Path], output: Path, limit: int | None = None) -> dict[str, object]:
    """Train on the documents of `paths` (the first `limit` alone if given); returns the record of the training.

    The same configuration and texts give the same tokenizer, byte for byte. Raises ValueError or OSError, before any
    long work, where it cannot be done.
    """
    started = time.monotonic()
    output.mkdir(parents=True, exist_ok=True)
    if not os.access(output, os.W_OK):
        raise PermissionError(f"{output}: cannot be written")
    _say(f"counting {' '.join(map(str, paths))}")
    sample = plan_sample(paths, config.sample, limit)
    if sample.faults.count:
        _say(f"{sample.faults.count} records could not be read, the first: {sample.faults.examples[0]}")
    if config.algorithm == "merged_bbpe":
        _require_two_languages(sample)
    needed, limit_bytes = memory_estimate(config, sample), memory_limit(config)
    if needed > limit_bytes:
        raise ValueError(
            f"training {config.algorithm} on {sample.expected_bytes / 1e6:.0f} MB needs about "
            f"{needed / _GIGABYTE:.1f} GB of memory, {limit_bytes / _GIGABYTE:.1f} GB are allowed: "
            f"lower sample.megabytes or raise memory_limit_gigabytes"
        )
    counted = time.monotonic()
    _say(f"training {config.algorithm} on {sample.expected_bytes / 1e6:.1f} MB, {config.vocab_size} tokens")
    backend, model = _train_backend(config, sample)
    add_special_tokens(backend, config)
    trained = time.monotonic()
    size = backend.get_vocab_size(with_added_tokens=True)
    if size < config.vocab_size:
        _say(f"the sample has no more than {size} tokens to learn; {config.vocab_size} were asked for")
    record: dict[str, object] = {
        "algorithm": config.algorithm,
        "tokens": size,
        "sample": sample.record(),
        "run": {
            "seconds_counting": round(counted - started, 2),
            "seconds_training": round(trained - counted, 2),
            "peak_memory_gigabytes": round(peak_memory() / _GIGABYTE, 3),
            "estimated_memory_gigabytes": round(needed / _GIGABYTE, 3),
            "versions": {"tokenizers": tokenizers.__version__},
        },
    }
    write_folder(output, backend, config, record, model)
    return record


def _require_two_languages(sample: Sample) -> None:
    languages = {language for (language, _), rate in sample.rates.items() if rate}
    if not languages & {"zh"} or not languages - {"zh"}:
        raise ValueError(
            f"merged_bbpe learns a vocabulary of Chinese and one of the rest, and the sample holds only "
            f"{', '.join(sorted(languages))}: give text of both, or algorithm bbpe"
        )


def _train_backend(config: TokenizerConfig, sample: Sample) -> tuple[tokenizers.Tokenizer, bytes | None]:
    """The trained vocabulary without special tokens, and SentencePiece's own file where it made one."""
    ordinary = config.vocab_size - len(layout_tokens(config.special_tokens))
    show = sys.stderr.isatty()
    if config.algorithm == "bbpe":
        return train_byte_level(sample.pieces(), config, ordinary, show), None
    if config.algorithm == "merged_bbpe":
        others = {language for language, _ in sample.rates} - {"zh"}
        first = train_byte_level(sample.pieces({"zh"}), config, ordinary, show)
        second = train_byte_level(sample.pieces(others), config, ordinary, show)
        return merge_byte_levels(first, second, config, ordinary), None
    from tokenizer.sentencepiece_model import train_sentencepiece

    return train_sentencepiece(sample, config, ordinary)


def memory_estimate(config: TokenizerConfig, sample: Sample) -> int:
    """Bytes of memory that training takes at most: a quarter or more above what was measured (docs/tokenizer.md).

    BPE keeps every distinct piece of text between two cuts. English words repeat; Chinese runs do so the less the
    longer they are, so the rule for Han decides. SentencePiece cuts at spaces alone.
    """
    chinese = other = 0.0
    for stratum, rate in sample.rates.items():
        taken = rate * sample.available[stratum].text_bytes
        if stratum[0] == "zh":
            chinese += taken
        else:
            other += taken
    if config.is_sentencepiece:
        per_chinese, per_other = _SENTENCEPIECE_BYTES_PER_BYTE[config.algorithm]
    else:
        per_chinese, per_other = _BYTES_PER_CHINESE_BYTE[config.pretokenization.han], _BYTES_PER_OTHER_BYTE
    return int(_BASE_MEMORY + per_chinese * chinese + per_other * other)


def memory_limit(config: TokenizerConfig) -> int:
    """Bytes that training may take: the configured limit, or what the machine has free."""
    if config.memory_limit_gigabytes:
        return int(config.memory_limit_gigabytes * _GIGABYTE)
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:"))
    except (OSError, StopIteration, ValueError):
        return sys.maxsize


def peak_memory() -> int:
    """The most memory that this process has had resident, in bytes."""
    try:
        # Linux's ru_maxrss also holds the peak of the process that started this one.
        lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:"))
    except (OSError, StopIteration, ValueError):
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if sys.platform == "darwin" else peak * 1024


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
