"""SentencePiece BPE and unigram with byte fallback, as GLM-130B's icetk, and their conversion to `tokenizers`.

The white space of icetk: a line end, a tab and each run of 2 to 80 spaces is one token. icetk writes a line end as the
text `<n>` before encoding, so a page that says `<n>` comes back with a line end; here the piece is the line end itself
(as Gemma has it), so that every text comes back as it was.

One character needs care. SentencePiece writes a space as U+2581 and so cannot tell that character from a space.
tokenizer.json escapes it: U+FDD0, which Unicode keeps for such internal use, becomes U+FDD0 0 and U+2581 becomes
U+FDD0 1, and back. Neither is a piece, so both fall back to bytes. For other texts tokenizer.json gives the ids of
`tokenizer.model`, but for two things: runs of more than 65 spaces, which SentencePiece's BPE cuts there, and unigram
splits whose scores are equal (one document in three hundred has one). `tokenizer.model` knows nothing of special
tokens: they follow its vocabulary.
"""

import io
from collections.abc import Iterator

import sentencepiece
import tokenizers
from tokenizers import AddedToken, decoders, models, normalizers

from tokenizer.config import SentencePieceConfig, TokenizerConfig
from tokenizer.load import SPACE, is_byte_piece
from tokenizer.sample import Sample

ESCAPE = "\ufdd0"
_UNKNOWN = "<unk>"
_NEVER = -1e6
"""Score of pieces that a text must not match although they stand in the vocabulary: `<0x41>` is a byte, not six
characters."""
_ASCII = "".join(map(chr, range(0x21, 0x7F)))


def train_sentencepiece(
    sample: Sample, config: TokenizerConfig, ordinary_size: int
) -> tuple[tokenizers.Tokenizer, bytes]:
    """Train on `sample`; returns the converted tokenizer without special tokens and the bytes of tokenizer.model.

    Raises ValueError where SentencePiece cannot make `ordinary_size` tokens of the sample.
    """
    settings = config.sentencepiece
    kind = config.algorithm.removeprefix("sentencepiece_")
    model = io.BytesIO()
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=_lines(sample, settings),
            model_writer=model,
            model_type=kind,
            vocab_size=ordinary_size,
            character_coverage=settings.character_coverage,
            required_chars=_ASCII,
            max_sentencepiece_length=settings.max_piece_length,
            max_sentence_length=2 * settings.max_sentence_bytes,
            user_defined_symbols=white_space_pieces(settings),
            byte_fallback=True,
            split_digits=True,
            normalization_rule_name="identity",
            add_dummy_prefix=False,
            remove_extra_whitespaces=False,
            hard_vocab_limit=False,
            unk_id=0,
            bos_id=-1,
            eos_id=-1,
            pad_id=-1,
            num_threads=settings.threads,
            minloglevel=2,
        )
    except RuntimeError as error:
        raise ValueError(
            f"SentencePiece cannot make {ordinary_size} tokens of this sample ({error}): "
            f"raise vocab_size, lower sentencepiece.character_coverage or give more text"
        ) from error
    content = model.getvalue()
    return convert(sentencepiece.SentencePieceProcessor(model_proto=content), kind), content


def white_space_pieces(settings: SentencePieceConfig) -> list[str]:
    """The line end, the tab, and runs of 2 to `max_space_run` spaces as SentencePiece writes them."""
    return ["\n", "\t", *(SPACE * length for length in range(2, settings.max_space_run + 1))]


def convert(model: sentencepiece.SentencePieceProcessor, kind: str) -> tokenizers.Tokenizer:
    """The same tokenizer in the `tokenizers` library; `kind` is `bpe` or `unigram`. The ids stay as they are."""
    pieces = [(model.id_to_piece(i), model.get_score(i)) for i in range(model.get_piece_size())]
    white = {i for i, (piece, _) in enumerate(pieces) if _is_white_space(piece)}
    backend = tokenizers.Tokenizer(_unigram(pieces, white) if kind == "unigram" else _bpe(pieces, white))
    backend.normalizer = normalizers.Sequence(
        [
            normalizers.Replace(ESCAPE, ESCAPE + "0"),
            normalizers.Replace(SPACE, ESCAPE + "1"),
            normalizers.Replace(" ", SPACE),
        ]
    )
    backend.decoder = decoders.Sequence(
        [
            decoders.Replace(SPACE, " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Replace(ESCAPE + "1", SPACE),
            decoders.Replace(ESCAPE + "0", ESCAPE),
        ]
    )
    if kind == "bpe":
        # Found in the text before anything else, the longest first, as SentencePiece's BPE finds them.
        texts = [pieces[i][0].replace(SPACE, " ") for i in sorted(white)]
        backend.add_tokens([AddedToken(text, normalized=False, special=False) for text in texts])
        assert [backend.token_to_id(text) for text in texts] == sorted(white)
    return backend


def _is_white_space(piece: str) -> bool:
    """Whether a piece is one of `white_space_pieces`; a single space is an ordinary one."""
    return piece in ("\n", "\t") or (len(piece) > 1 and not piece.strip(SPACE))


def _unigram(pieces: list[tuple[str, float]], white: set[int]) -> models.Unigram:
    """White space has the score that SentencePiece 0.2.3 gives it when it encodes, inferred from what it chooses."""
    hidden = {i for i, (piece, _) in enumerate(pieces) if is_byte_piece(piece) or piece == _UNKNOWN}
    vocabulary = []
    for i, (piece, score) in enumerate(pieces):
        if i in white:
            score = 0.1 * len(piece.encode()) - 0.1
        vocabulary.append((piece, _NEVER if i in hidden else score))
    return models.Unigram(vocabulary, 0, True)


def _bpe(pieces: list[tuple[str, float]], white: set[int]) -> models.BPE:
    vocabulary = {piece.replace(SPACE, " ") if i in white else piece: i for i, (piece, _) in enumerate(pieces)}
    # SentencePiece keeps no list of merges: any two pieces whose union is a piece merge, the best union first.
    merges = []
    for i, (piece, score) in enumerate(pieces):
        if i in white or is_byte_piece(piece) or piece == _UNKNOWN:
            continue
        for place in range(1, len(piece)):
            first, second = piece[:place], piece[place:]
            if first in vocabulary and second in vocabulary:
                merges.append((-score, vocabulary[first], vocabulary[second], (first, second)))
    ordered = [pair for *_, pair in sorted(merges)]
    return models.BPE(vocabulary, ordered, unk_token=_UNKNOWN, fuse_unk=True, byte_fallback=True)


def _lines(sample: Sample, settings: SentencePieceConfig) -> Iterator[str]:
    """The sample's lines, none longer than `max_sentence_bytes`, without what SentencePiece must not see."""
    removed = {ord(SPACE): None, ord(ESCAPE): None, 0: None}
    longest = settings.max_sentence_bytes // 4
    for piece in sample.pieces():
        for line in piece.translate(removed).splitlines():
            for start in range(0, len(line), longest):
                yield line[start : start + longest]
