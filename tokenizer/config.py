"""Settings of a tokenizer's training: the sample it is trained on, the algorithm, the cuts, the vocabulary."""

from dataclasses import dataclass, field
from typing import Literal

from tokenizer.special_tokens import Layout, layout_tokens

HanRule = Literal["with_letters", "with_punctuation", "apart", "runs_of_8", "runs_of_4", "runs_of_2", "runs_of_1"]
DigitRule = Literal["one", "three", "run"]
Algorithm = Literal["bbpe", "merged_bbpe", "sentencepiece_bpe", "sentencepiece_unigram"]

BYTES = 256
"""A vocabulary holds every single byte, so that any text can be written in it."""


@dataclass(frozen=True, kw_only=True)
class SampleConfig:
    """What of the corpus a tokenizer is trained on: a share of each language, drawn in pieces from all sources."""

    megabytes: float = 60.0
    """Size of the sample in millions of UTF-8 bytes, over all languages."""
    language_weights: dict[str, float] = field(default_factory=lambda: {"zh": 1.0, "en": 1.0})
    """Share of each language (`zh`, `en`, `mixed`, `other`) and of `code`, in any unit. One that the corpus lacks is an
    error, unless `may_be_absent` names it; one that is not named here is left out."""
    may_be_absent: list[str] = field(default_factory=lambda: ["mixed", "other", "code"])
    """Languages with a weight that the corpus need not have."""
    source_exponent: float = 0.7
    """A source of n bytes is drawn in proportion to n ** source_exponent within its language: 1 as it lies, 0 all
    sources alike."""
    keep_balance: bool = True
    """Where a language has less text than its share, take less of the others too (true), or take what there is of each
    (false)."""
    piece_bytes: int = 8192
    """A document is drawn in pieces of about so many bytes, cut after a line, so that no book fills the sample."""
    seed: int = 0
    """Another seed draws other pieces."""

    def __post_init__(self) -> None:
        """Raise ValueError for a sample that cannot be drawn."""
        if self.megabytes <= 0:
            raise ValueError(f"sample.megabytes must be above 0, not {self.megabytes}")
        if any(weight < 0 for weight in self.language_weights.values()) or not sum(self.language_weights.values()):
            raise ValueError("sample.language_weights must hold weights of 0 or more, one above 0")
        if not 0 <= self.source_exponent <= 1:
            raise ValueError(f"sample.source_exponent must lie in 0 to 1, not {self.source_exponent}")
        if self.piece_bytes < 256:
            raise ValueError(f"sample.piece_bytes must be at least 256, not {self.piece_bytes}")


@dataclass(frozen=True, kw_only=True)
class PretokenizationConfig:
    """Where a byte-level BPE may not merge: the text is cut there before training and before encoding."""

    han: HanRule = "apart"
    """How a run of Han characters is cut: with neighbouring letters (as cl100k's pattern does), with Chinese
    punctuation, apart from all else, or apart and in runs of at most so many characters."""
    digits: DigitRule = "one"
    """Digits one by one, in groups of up to three from the left, or as long as they run."""
    contractions: bool = True
    """Cut English 's 't 're 've 'm 'll 'd from the word before."""


@dataclass(frozen=True, kw_only=True)
class MergeConfig:
    """GLM-4's recipe: vocabularies learned apart, then merged into one (`algorithm: merged_bbpe`)."""

    chinese_share: float = 0.5
    """Share of the vocabulary that is learned on Chinese alone; the rest on everything else."""

    def __post_init__(self) -> None:
        """Raise ValueError for a share outside 0 to 1."""
        if not 0 < self.chinese_share < 1:
            raise ValueError(f"merge.chinese_share must lie between 0 and 1, not {self.chinese_share}")


@dataclass(frozen=True, kw_only=True)
class SentencePieceConfig:
    """What only the two SentencePiece algorithms have."""

    character_coverage: float = 0.9995
    """Share of the sample's characters that get a token of their own before all else; the rest falls back to bytes."""
    max_space_run: int = 80
    """Runs of 2 up to so many spaces are one token each, as in icetk; 0 for none."""
    max_piece_length: int = 16
    """Longest token in characters."""
    max_sentence_bytes: int = 8192
    """Lines longer than this are cut before training."""
    threads: int = 4
    """Threads of training; another number may give another tokenizer."""

    def __post_init__(self) -> None:
        """Raise ValueError for what SentencePiece cannot do."""
        if not 0.9 <= self.character_coverage <= 1:
            raise ValueError(f"sentencepiece.character_coverage must lie in 0.9 to 1, not {self.character_coverage}")
        if not 0 <= self.max_space_run <= 80:
            raise ValueError(f"sentencepiece.max_space_run must lie in 0 to 80, not {self.max_space_run}")
        if min(self.max_piece_length, self.threads) < 1 or self.max_sentence_bytes < 64:
            raise ValueError("sentencepiece: max_piece_length and threads are at least 1, max_sentence_bytes 64")


@dataclass(frozen=True, kw_only=True)
class TokenizerConfig:
    """One tokenizer: what `python -m tokenizer train` makes and keeps beside it as `config.yaml`."""

    algorithm: Algorithm = "bbpe"
    """Byte-level BPE, two byte-level vocabularies merged, or SentencePiece's BPE or unigram with byte fallback."""
    vocab_size: int = 32000
    """Tokens with the special ones, before padding."""
    pad_vocab_to_multiple_of: int = 128
    """The vocabulary that a model must have is rounded up to this, for the shape of its matrix products."""
    special_tokens: Layout = "glm-5"
    """Order of the special tokens: GLM-130B's or GLM-5's."""
    min_frequency: int = 2
    """A pair seen less often is not merged (byte-level BPE)."""
    max_token_bytes: int = 64
    """Longest token of a byte-level BPE, in bytes."""
    sample: SampleConfig = field(default_factory=SampleConfig)
    """What it is trained on."""
    pretokenization: PretokenizationConfig = field(default_factory=PretokenizationConfig)
    """Cuts before byte-level BPE."""
    merge: MergeConfig = field(default_factory=MergeConfig)
    """Settings of `merged_bbpe`."""
    sentencepiece: SentencePieceConfig = field(default_factory=SentencePieceConfig)
    """Settings of the two SentencePiece algorithms."""
    memory_limit_gigabytes: float = 0.0
    """Training stops before it begins where it would need more; 0 for what the machine has free."""

    def __post_init__(self) -> None:
        """Raise ValueError for a vocabulary that cannot hold the bytes and the special tokens, and the like."""
        special = len(layout_tokens(self.special_tokens))
        spaces = max(self.sentencepiece.max_space_run - 1, 0) + 3 if self.is_sentencepiece else 0
        least = BYTES + special + spaces + 1
        if self.vocab_size < least:
            raise ValueError(
                f"vocab_size {self.vocab_size} is too small: {BYTES} bytes, {special} special tokens of the layout "
                f"{self.special_tokens}{f' and {spaces} for white space' if spaces else ''} need at least {least}"
            )
        if self.pad_vocab_to_multiple_of < 1:
            raise ValueError(f"pad_vocab_to_multiple_of must be at least 1, not {self.pad_vocab_to_multiple_of}")
        if self.memory_limit_gigabytes < 0:
            raise ValueError(f"memory_limit_gigabytes must be 0 or more, not {self.memory_limit_gigabytes}")

    @property
    def is_sentencepiece(self) -> bool:
        """Whether SentencePiece trains it."""
        return self.algorithm.startswith("sentencepiece")

    @property
    def padded_vocab_size(self) -> int:
        """`vocab_size` rounded up to the multiple."""
        multiple = self.pad_vocab_to_multiple_of
        return -(-self.vocab_size // multiple) * multiple
