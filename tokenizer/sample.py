"""Draw the text that a tokenizer is trained on: stratified by language and source, streamed, the same every time.

Two readings of the corpus. The first counts the bytes of every stratum, from which each stratum's rate follows; the
second takes a piece where the digest of (seed, its text) falls below the rate. So the sample depends on the texts and
the seed alone, not on the order of files (but where there are more than `MOST_STRATA` collections: those met first have
a stratum of their own), and memory holds one document and a counter a stratum.
"""

import hashlib
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path

from tokenizer.config import SampleConfig
from tokenizer.corpus import Faults, read_documents

Stratum = tuple[str, str]
"""(language, collection)."""

MOST_STRATA = 2000
"""Collections beyond so many share one stratum a language, so that the counters stay small whatever the corpus."""
OTHERS = "(others)"


@dataclass
class Tally:
    """Documents or pieces, and UTF-8 bytes."""

    count: int = 0
    text_bytes: int = 0

    def add(self, text_bytes: int) -> None:
        """Count one."""
        self.count += 1
        self.text_bytes += text_bytes


@dataclass
class Sample:
    """A sample that can be streamed; made by `plan_sample`."""

    paths: list[Path]
    config: SampleConfig
    limit: int | None
    available: dict[Stratum, Tally]
    """What the corpus holds in each stratum."""
    rates: dict[Stratum, float]
    """Share of each stratum's bytes that is taken; 0 for a language without a weight."""
    faults: Faults
    """What could not be read."""
    drawn: dict[Stratum, Tally] = field(default_factory=dict)
    """What `pieces` has given so far."""

    @property
    def expected_bytes(self) -> int:
        """Bytes that the sample will have, but for the luck of the draw."""
        return round(sum(self.available[stratum].text_bytes * rate for stratum, rate in self.rates.items()))

    def pieces(self, languages: set[str] | None = None) -> Iterator[str]:
        """The sample's texts in the order of the corpus; of some languages alone if given."""
        chosen = {stratum: rate for stratum, rate in self.rates.items() if not languages or stratum[0] in languages}
        for stratum in chosen:
            self.drawn.pop(stratum, None)
        for document in read_documents(self.paths, Faults(), self.limit):
            stratum = (document.language, document.source)
            if stratum not in self.rates:
                stratum = (document.language, OTHERS)
            rate = chosen.get(stratum, 0.0)
            if not rate:
                continue
            for piece in cut(document.text, self.config.piece_bytes):
                encoded = piece.encode()
                if _draw(encoded, self.config.seed) < rate:
                    self.drawn.setdefault(stratum, Tally()).add(len(encoded))
                    yield piece

    def record(self) -> dict[str, object]:
        """What was drawn, of what, for the tokenizer's `training.json`."""
        return {
            "input": [str(path) for path in self.paths],
            "drawn_bytes": sum(tally.text_bytes for tally in self.drawn.values()),
            "languages": {name: asdict(tally) for name, tally in sorted(_by_language(self.drawn).items())},
            "available": {name: asdict(tally) for name, tally in sorted(_by_language(self.available).items())},
            "strata": [
                {"language": language, "source": source, "rate": round(self.rates[language, source], 6)}
                | {"available_bytes": self.available[language, source].text_bytes}
                | {"drawn_bytes": self.drawn.get((language, source), Tally()).text_bytes}
                for language, source in self._largest_strata(50)
            ],
            "strata_in_all": len(self.available),
            "unreadable": {"count": self.faults.count, "examples": self.faults.examples},
        }

    def _largest_strata(self, count: int) -> list[Stratum]:
        return sorted(self.available, key=lambda stratum: (-self.available[stratum].text_bytes, stratum))[:count]


def plan_sample(paths: list[Path], config: SampleConfig, limit: int | None = None) -> Sample:
    """Read the corpus once and decide how much of each stratum to take.

    Raises ValueError where there is no text at all, or a language with a weight is absent.
    """
    faults = Faults()
    available: dict[Stratum, Tally] = {}
    for document in read_documents(paths, faults, limit):
        stratum = (document.language, document.source)
        if stratum not in available and len(available) >= MOST_STRATA:
            stratum = (document.language, OTHERS)
        available.setdefault(stratum, Tally()).add(len(document.text.encode()))
    names = " ".join(map(str, paths))
    if not available:
        why = f" ({faults.count} records could not be read, the first: {faults.examples[0]})" if faults.count else ""
        raise ValueError(f"{names}: no text at all to train a tokenizer on{why}")
    totals = {name: tally.text_bytes for name, tally in _by_language(available).items()}
    budgets = _budgets(totals, config, names)
    rates: dict[Stratum, float] = {}
    for language in totals:
        sources = {s: tally.text_bytes for (name, s), tally in available.items() if name == language}
        for source, rate in _source_rates(sources, budgets.get(language, 0.0), config.source_exponent).items():
            rates[language, source] = rate
    return Sample(paths=paths, config=config, limit=limit, available=available, rates=rates, faults=faults)


def cut(text: str, piece_bytes: int) -> Iterator[str]:
    """`text` in pieces of about `piece_bytes`, cut after a line end; a line of twice that is cut where it must be."""
    piece: list[str] = []
    size = 0
    for line in text.splitlines(keepends=True):
        length = len(line.encode())
        if length > 2 * piece_bytes:
            # Four bytes are the longest character, so such a part is at most `piece_bytes` long.
            step = piece_bytes // 4
            if piece:
                yield "".join(piece)
                piece, size = [], 0
            yield from (line[start : start + step] for start in range(0, len(line), step))
            continue
        piece.append(line)
        size += length
        if size >= piece_bytes:
            yield "".join(piece)
            piece, size = [], 0
    if piece:
        yield "".join(piece)


def _budgets(totals: dict[str, int], config: SampleConfig, names: str) -> dict[str, float]:
    """Bytes to take of each language."""
    weights = {language: weight for language, weight in config.language_weights.items() if weight}
    for language in [name for name in weights if name not in totals]:
        if language not in config.may_be_absent:
            found = ", ".join(f"{name} {size / 1e6:.1f} MB" for name, size in sorted(totals.items()))
            raise ValueError(
                f"{names}: no document of language {language} (found {found}); add some, or set "
                f"sample.language_weights.{language} to 0"
            )
        del weights[language]
    if not weights:
        raise ValueError(f"{names}: none of the languages that sample.language_weights names")
    total = config.megabytes * 1e6
    share = {language: weight / sum(weights.values()) for language, weight in weights.items()}
    if config.keep_balance:
        # Optional languages are a seasoning: they never make the sample smaller.
        held = [language for language in share if language not in config.may_be_absent]
        total = min([total, *(totals[language] / share[language] for language in held)])
    return {language: min(total * share[language], totals[language]) for language in share}


def _source_rates(sources: dict[str, int], budget: float, exponent: float) -> dict[str, float]:
    """Rate of each source of one language; what a small source cannot give, the others do."""
    rates: dict[str, float] = {}
    left = {source: size**exponent for source, size in sources.items()}
    while left:
        scale = budget / sum(left.values())
        full = [source for source, weight in left.items() if weight * scale >= sources[source]]
        if not full:
            return rates | {source: weight * scale / sources[source] for source, weight in left.items()}
        for source in full:
            rates[source] = 1.0
            budget -= sources[source]
            del left[source]
    return rates


def _by_language(strata: dict[Stratum, Tally]) -> dict[str, Tally]:
    totals: dict[str, Tally] = {}
    for (language, _), tally in strata.items():
        total = totals.setdefault(language, Tally())
        total.count += tally.count
        total.text_bytes += tally.text_bytes
    return totals


def _draw(piece: bytes, seed: int) -> float:
    digest = hashlib.blake2b(piece, digest_size=8, salt=seed.to_bytes(8, "little", signed=True)).digest()
    return int.from_bytes(digest, "little") / 2**64
