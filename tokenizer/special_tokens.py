"""The one definition of GLM's special tokens: their text, their order in a vocabulary, their roles.

Every tokenizer of this project holds all of them, with ids that follow the ordinary vocabulary without a gap, as
GLM-130B (150000 ...) and GLM-5 (154820 ...) have them. Two roles never share an id: GLM-10B-Chinese shipped
`[gMASK]` and `<eop>` on one id (GLM issue 55), and padding that equals the end of a document breaks every mask that
is derived from ids, so `<|pad|>` is a token of its own.

Sources: GLM paper (arXiv 2103.10360) for the blank tokens; icetk of GLM-130B and the token listing of GLM-5 for the
two orders.
"""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

Layout = Literal["glm-130b", "glm-5"]

TEXT_OF_ROLE: dict[str, str] = {
    "mask": "[MASK]",
    "gmask": "[gMASK]",
    "smask": "[sMASK]",
    "sop": "<sop>",
    "eop": "<eop>",
    "endoftext": "<|endoftext|>",
    "pad": "<|pad|>",
    "code_prefix": "<|code_prefix|>",
    "code_middle": "<|code_middle|>",
    "code_suffix": "<|code_suffix|>",
    "system": "<|system|>",
    "user": "<|user|>",
    "assistant": "<|assistant|>",
    "observation": "<|observation|>",
}
"""The roles that the code of this project asks for by name, and the text of each."""

SPECIAL_TOKENS: tuple[str, ...] = tuple(TEXT_OF_ROLE.values())
"""The text of every role's token. A layout may hold more (images, tool calls), which nothing here asks for."""

_GLM_130B = (
    *("[MASK]", "[gMASK]", "[sMASK]", "<|endoftext|>", "<sop>", "<eop>", "[ENC]", "[dBLOCK]", "<|pad|>"),
    *("<|code_prefix|>", "<|code_middle|>", "<|code_suffix|>"),
    *("<|system|>", "<|user|>", "<|assistant|>", "<|observation|>"),
)

_GLM_5 = (
    *("<|endoftext|>", "[MASK]", "[gMASK]", "[sMASK]", "<sop>", "<eop>"),
    *("<|system|>", "<|user|>", "<|assistant|>", "<|observation|>"),
    *("<|begin_of_image|>", "<|end_of_image|>", "<|begin_of_video|>", "<|end_of_video|>"),
    *("<|begin_of_audio|>", "<|end_of_audio|>", "<|begin_of_transcription|>", "<|end_of_transcription|>"),
    *("<|code_prefix|>", "<|code_middle|>", "<|code_suffix|>"),
    *("<think>", "</think>", "<tool_call>", "</tool_call>", "<tool_response>", "</tool_response>"),
    *("<arg_key>", "</arg_key>", "<arg_value>", "</arg_value>", "/nothink"),
    *("<|begin_of_box|>", "<|end_of_box|>", "<|image|>", "<|video|>", "<|pad|>"),
)

_LAYOUTS: dict[str, tuple[str, ...]] = {"glm-130b": _GLM_130B, "glm-5": _GLM_5}


def layout_tokens(layout: Layout) -> tuple[str, ...]:
    """The texts of a layout in the order of their ids, the first of which is the size of the ordinary vocabulary.

    Both keep the order of the released model as far as that goes and add at the end what it lacks: `<|pad|>` to both,
    the code and role tokens to GLM-130B's.
    """
    return _LAYOUTS[layout]


@dataclass(frozen=True, kw_only=True)
class SpecialTokens:
    """The id of each role in one vocabulary; all different."""

    mask: int
    """`[MASK]`: a short blank."""
    gmask: int
    """`[gMASK]`: a long blank at the end of the context."""
    smask: int
    """`[sMASK]`: a blank of whole sentences."""
    sop: int
    """`<sop>`: begins the answer to a blank."""
    eop: int
    """`<eop>`: ends the answer to a blank."""
    endoftext: int
    """`<|endoftext|>`: ends a document."""
    pad: int
    """`<|pad|>`: fills a row; never a target and never seen."""
    code_prefix: int
    """`<|code_prefix|>`: the code before a hole."""
    code_middle: int
    """`<|code_middle|>`: the code of a hole."""
    code_suffix: int
    """`<|code_suffix|>`: the code after a hole."""
    system: int
    """`<|system|>`: a system prompt follows."""
    user: int
    """`<|user|>`: a user's turn follows."""
    assistant: int
    """`<|assistant|>`: the model's turn follows."""
    observation: int
    """`<|observation|>`: a tool's answer follows."""

    def __post_init__(self) -> None:
        """Raise ValueError where two roles share an id or an id is negative."""
        role_of_id: dict[int, str] = {}
        for role, token_id in dataclasses.asdict(self).items():
            if token_id < 0:
                raise ValueError(f"special token {TEXT_OF_ROLE[role]} has the id {token_id}; ids begin at 0")
            if token_id in role_of_id:
                other = TEXT_OF_ROLE[role_of_id[token_id]]
                raise ValueError(f"special tokens {other} and {TEXT_OF_ROLE[role]} share the id {token_id}")
            role_of_id[token_id] = role

    @classmethod
    def from_vocabulary(cls, vocabulary: Mapping[str, int]) -> "SpecialTokens":
        """Look up every role's text in `vocabulary` (text -> id). Raises ValueError where one is missing."""
        missing = [text for text in SPECIAL_TOKENS if text not in vocabulary]
        if missing:
            raise ValueError(f"the vocabulary lacks the special tokens {' '.join(missing)}")
        return cls(**{role: vocabulary[text] for role, text in TEXT_OF_ROLE.items()})
