"""Where text is cut before byte-level BPE: one regular expression, written for Chinese and English together.

The English part is that of cl100k (as GLM-4 uses it): a word takes the space or mark before it, marks run together and
take the line ends after them, spaces before a word leave their last one to the word. What differs is the rule for Han
runs (`PretokenizationConfig.han`). Chinese has no spaces, so under cl100k's own rule an unbroken clause is one piece
and BPE learns phrases of any length; a rule that cuts Han runs short trains faster and keeps tokens to words.

The expression is Oniguruma's, which `tokenizers` uses; every character of any text falls in exactly one piece.
"""

from tokenizers import Regex, decoders, pre_tokenizers

from tokenizer.config import HanRule, PretokenizationConfig

_CONTRACTIONS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)(?![\p{L}\p{M}])"
_DIGITS = {"one": r"\p{N}", "three": r"\p{N}{1,3}", "run": r"\p{N}+"}
_LETTERS = r"[^\r\n\p{L}\p{M}\p{N}]?[\p{L}\p{M}]+"
_LETTERS_WITHOUT_HAN = r"[^\r\n\p{L}\p{M}\p{N}]?[\p{L}\p{M}&&[^\p{Han}]]+"
_MARKS = r" ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*"
_SPACES = (r"\s*[\r\n]+", r"\s+(?!\S)", r"\s+")

_HAN_LETTER = r"[\p{Han}&&\p{L}]"
CHINESE_MARKS = "，。、；：？！“”‘’（）《》「」『』…—·"
"""Marks that `with_punctuation` leaves in one piece with Han characters."""


def _han(rule: HanRule) -> list[str]:
    """The alternatives for letters under a rule, Han first."""
    if rule == "with_letters":
        return [_LETTERS]
    if rule == "with_punctuation":
        # Clauses and their marks are one piece, 你好，世界。 and the like, so that tokens may hold a mark.
        return [rf"(?:{_HAN_LETTER}|[{CHINESE_MARKS}])+", _LETTERS_WITHOUT_HAN]
    if rule == "apart":
        return [_HAN_LETTER + "+", _LETTERS_WITHOUT_HAN]
    return [_HAN_LETTER + "{1," + rule.removeprefix("runs_of_") + "}", _LETTERS_WITHOUT_HAN]


def pattern(config: PretokenizationConfig) -> str:
    """The expression whose matches, end to end, are the pieces of a text."""
    contractions = [_CONTRACTIONS] if config.contractions else []
    return "|".join([*contractions, *_han(config.han), _DIGITS[config.digits], _MARKS, *_SPACES])


def byte_level_pre_tokenizer(config: PretokenizationConfig) -> pre_tokenizers.PreTokenizer:
    """Cut by `pattern`, then write each piece in the 256 printable stand-ins for bytes."""
    split = pre_tokenizers.Split(Regex(pattern(config)), behavior="isolated")
    return pre_tokenizers.Sequence([split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])


def byte_level_decoder() -> decoders.Decoder:
    """The way back from stand-ins to bytes and UTF-8."""
    return decoders.ByteLevel()
