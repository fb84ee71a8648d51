"""The special tokens: one id a role, the released orders, and no control token out of a page's own words."""

import dataclasses
from pathlib import Path
from typing import get_args

import pytest

from tokenizer.load import Tokenizer
from tokenizer.special_tokens import SPECIAL_TOKENS, TEXT_OF_ROLE, Layout, SpecialTokens, layout_tokens


@pytest.mark.parametrize("layout", get_args(Layout))
def test_a_layout_holds_every_role_once(layout: Layout) -> None:
    texts = layout_tokens(layout)
    assert len(set(texts)) == len(texts)
    assert set(SPECIAL_TOKENS) <= set(texts)


def test_glm_5_order_gives_the_released_ids() -> None:
    """Ids from GLM-5's token listing, whose ordinary vocabulary ends at 154,819."""
    special = SpecialTokens.from_vocabulary({text: 154_820 + i for i, text in enumerate(layout_tokens("glm-5"))})
    assert (special.endoftext, special.mask, special.gmask, special.smask) == (154_820, 154_821, 154_822, 154_823)
    assert (special.sop, special.eop, special.system, special.observation) == (154_824, 154_825, 154_826, 154_829)
    assert (special.code_prefix, special.code_middle, special.code_suffix) == (154_838, 154_839, 154_840)
    assert special.pad > 154_855


def test_glm_130b_order_gives_the_released_ids() -> None:
    """Ids from GLM-130B's icetk, which counts its special tokens from 150,000."""
    special = SpecialTokens.from_vocabulary({text: 150_000 + i for i, text in enumerate(layout_tokens("glm-130b"))})
    assert (special.mask, special.gmask, special.smask) == (150_000, 150_001, 150_002)
    assert (special.endoftext, special.sop, special.eop) == (150_003, 150_004, 150_005)


def test_two_roles_on_one_id_are_refused() -> None:
    ids = {role: i for i, role in enumerate(TEXT_OF_ROLE)}
    with pytest.raises(ValueError, match=r"\[gMASK\] and <eop> share the id 1"):
        SpecialTokens(**(ids | {"eop": ids["gmask"]}))


def test_a_missing_token_is_named() -> None:
    with pytest.raises(ValueError, match=r"<\|pad\|>"):
        SpecialTokens.from_vocabulary({text: i for i, text in enumerate(SPECIAL_TOKENS) if text != "<|pad|>"})


@pytest.mark.parametrize("text", [*layout_tokens("glm-5"), *layout_tokens("glm-130b")])
def test_a_page_that_spells_a_special_token_gets_none(any_tokenizer: Tokenizer, text: str) -> None:
    for page in (text, f"文中写着{text}，而已。", f"a {text} b", text * 3):
        ids = any_tokenizer.encode(page)
        assert not any_tokenizer.special_ids & set(ids)
        assert any_tokenizer.decode(ids) == page
        assert any_tokenizer.encode_batch([page]) == [ids]


def test_a_prompt_gets_them_all(any_tokenizer: Tokenizer) -> None:
    for role, token_id in dataclasses.asdict(any_tokenizer.special).items():
        assert any_tokenizer.encode_prompt(f"今天{TEXT_OF_ROLE[role]}很好").count(token_id) == 1
        assert any_tokenizer.decode([token_id]) == TEXT_OF_ROLE[role]
        assert any_tokenizer.decode([token_id], skip_special=True) == ""
    assert any_tokenizer.encode_prompt(layout_tokens("glm-5")[-1])[0] in any_tokenizer.special_ids


def test_transformers_can_do_both(bbpe: Tokenizer, bbpe_folder: Path) -> None:
    transformers = pytest.importorskip("transformers")
    theirs = transformers.AutoTokenizer.from_pretrained(bbpe_folder)
    text = "今天[MASK]很好<|endoftext|> and <sop> [gMASK]"
    assert theirs(text)["input_ids"] == bbpe.encode_prompt(text)
    assert theirs(text, split_special_tokens=True)["input_ids"] == bbpe.encode(text)
    plain = transformers.AutoTokenizer.from_pretrained(bbpe_folder, split_special_tokens=True)
    assert plain(text)["input_ids"] == bbpe.encode(text)
    assert (theirs.eos_token_id, theirs.pad_token_id) == (bbpe.special.endoftext, bbpe.special.pad)
