"""Every number of the objectives that a person may turn. The window belongs to the stage's data configuration."""

from dataclasses import dataclass, field
from typing import Literal


def _check_probability(name: str, value: float) -> None:
    if not 0.0 <= value <= 1.0:
        raise ValueError(f"{name}: {value} is not a probability; give a number from 0 to 1")


@dataclass(frozen=True, kw_only=True)
class BlankInfillingConfig:
    """Autoregressive blank infilling (GLM §2.1, GLM-130B §2.2). The defaults are GLM-130B's."""

    mask_share: float = 0.3
    """Share of rows with many short `[MASK]` spans (the three shares are divided by their sum)."""
    sentence_share: float = 0.0
    """Share of rows in which whole sentences become `[sMASK]`."""
    document_share: float = 0.7
    """Share of rows whose documents' suffixes become `[gMASK]`."""
    positions: Literal["glm130b", "glm", "multi_task"] = "glm130b"
    """glm130b: a span repeats its mask's position, a document counts on; glm: two rows of positions;
    multi_task: `<sop>` takes the mask's position and the span counts on from there."""
    mip_positions: Literal["plain", "multi_task"] = "multi_task"
    """Positions of instruction pairs, unless `positions` is glm: plain counts on from the mask."""
    mask_windows: int = 4
    """Windows of `[MASK]` text in a row: four of 512 in a row of 2,048."""
    sentence_windows: int = 1
    """Windows of `[sMASK]` text in a row."""
    mask_fill: float = 0.875
    """Share of a `[MASK]` row that is source text (448 of 512); the rest is room for what the spans add."""
    sentence_fill: float = 0.9375
    """Share of a `[sMASK]` row that is source text; every sentence adds two tokens."""
    document_fill: float = 0.984375
    """Share of a `[gMASK]` row that is source text; every example adds one token."""
    mask_ratio: float = 0.15
    """Share of a piece's tokens that `[MASK]` spans reach before no more are drawn."""
    sentence_ratio: float = 0.15
    """Share of a piece's tokens that `[sMASK]` sentences reach before no more are drawn."""
    span_mean: float = 3.0
    """Mean of the Poisson distribution of span lengths, before zero and the tail are cut off."""
    span_longest: int = 39
    """Longest `[MASK]` span, in tokens."""
    document_rule: Literal["glm130b", "glm"] = "glm130b"
    """Length of a `[gMASK]` suffix of a piece of L tokens: uniform on [minimum * L, L], or for glm up to L - 2."""
    document_minimum: float = 0.2
    """Least share of a piece that a `[gMASK]` suffix takes."""
    single_span_probability: float = 0.02
    """Probability that the pieces of a `[MASK]` window get one span each."""
    short_sequence_probability: float = 0.02
    """Probability that a `[MASK]` window is cut into pieces of one random length (nothing is dropped)."""
    shortest_sequence: int = 32
    """Shortest random length of such pieces, in tokens."""
    decoder_noise: float = 0.0
    """Probability that an input token of a `[MASK]` span is replaced by the mask token (GLM-10B: 0.1)."""

    def __post_init__(self) -> None:
        for name in ("mask_ratio", "sentence_ratio", "document_minimum", "single_span_probability",
                     "short_sequence_probability", "decoder_noise"):  # fmt: skip
            _check_probability(f"objective.blank_infilling.{name}", getattr(self, name))
        shares = (self.mask_share, self.sentence_share, self.document_share)
        if min(shares) < 0 or sum(shares) <= 0:
            raise ValueError(f"objective.blank_infilling: the task shares {shares} must not be negative or all zero")
        for name in ("mask_windows", "sentence_windows", "span_longest", "shortest_sequence"):
            if getattr(self, name) < 1:
                raise ValueError(f"objective.blank_infilling.{name}: {getattr(self, name)} must be 1 or more")
        for name in ("mask_fill", "sentence_fill", "document_fill"):
            if not 0.0 < getattr(self, name) < 1.0:
                raise ValueError(f"objective.blank_infilling.{name}: {getattr(self, name)} must lie between 0 and 1")
        for name, choices in (
            ("positions", ("glm130b", "glm", "multi_task")),
            ("mip_positions", ("plain", "multi_task")),
            ("document_rule", ("glm130b", "glm")),
        ):
            if getattr(self, name) not in choices:
                raise ValueError(
                    f"objective.blank_infilling.{name}: {getattr(self, name)!r} is none of {', '.join(choices)}"
                )
        if self.span_mean <= 0:
            raise ValueError(f"objective.blank_infilling.span_mean: {self.span_mean} must be positive")


@dataclass(frozen=True, kw_only=True)
class CausalConfig:
    """Next-token prediction within a document, with fill-in-the-middle on code (Bavarian et al. 2022)."""

    fim_rate: float = 0.0
    """Probability that a piece of a `kind: code` document is rearranged as prefix, suffix, middle."""
    fim_fill: float = 0.984375
    """Share of a row of a code source that is source text when fim_rate is not 0; each rearranged piece adds three."""

    def __post_init__(self) -> None:
        _check_probability("objective.causal.fim_rate", self.fim_rate)
        if not 0.0 < self.fim_fill < 1.0:
            raise ValueError(f"objective.causal.fim_fill: {self.fim_fill} must lie between 0 and 1")


@dataclass(frozen=True, kw_only=True)
class ObjectiveConfig:
    """What a stage trains on each window of tokens."""

    kind: Literal["blank_infilling", "causal"] = "blank_infilling"
    """blank_infilling (GLM, GLM-130B) or causal (GLM-4.5, GLM-5)."""
    blank_infilling: BlankInfillingConfig = field(default_factory=BlankInfillingConfig)
    """Used when kind is blank_infilling."""
    causal: CausalConfig = field(default_factory=CausalConfig)
    """Used when kind is causal."""

    def __post_init__(self) -> None:
        if self.kind not in ("blank_infilling", "causal"):
            raise ValueError(f"objective.kind: {self.kind!r} is neither blank_infilling nor causal")

    @property
    def two_dimensional(self) -> bool:
        """Whether rows have a pair of positions a token."""
        return self.kind == "blank_infilling" and self.blank_infilling.positions == "glm"

    def check_model(self, mtp_layers: int, two_dimensional: bool | None = None) -> None:
        """Raise ValueError when a model cannot serve this objective.

        `mtp_layers` counts its multi-token-prediction layers: MTP predicts the token after the next, and in a blank the
        next position may belong to another span. `two_dimensional` says whether it takes pairs of positions.
        """
        if self.kind == "blank_infilling" and mtp_layers > 0:
            raise ValueError(
                f"objective.kind is blank_infilling and the model has {mtp_layers} MTP layers; "
                "set the model's MTP layers to 0 or train it with kind: causal"
            )
        if two_dimensional is not None and two_dimensional != self.two_dimensional:
            given = "pairs of positions" if self.two_dimensional else "one position a token"
            raise ValueError(
                f"the objective gives {given} and the model's position.kind wants the other; "
                "objective.blank_infilling.positions: glm goes with learned_2d and rotary_2d, the others do not"
            )


#: GLM-130B's mixture: 30 % [MASK], 70 % [gMASK] (its 5 % of instruction pairs are a source of the data configuration).
GLM_130B = BlankInfillingConfig()

#: GLM-10B's mixture at 512 tokens a row: 50 % tokens, 30 % sentences, 20 % documents.
GLM_10B = BlankInfillingConfig(
    mask_share=0.5,
    sentence_share=0.3,
    document_share=0.2,
    positions="glm",
    mask_windows=1,
    sentence_windows=1,
    document_rule="glm",
    document_minimum=0.25,
    single_span_probability=0.0,
    short_sequence_probability=0.02,
    decoder_noise=0.1,
)
