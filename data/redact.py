"""The redact stage: personal data replaced by typed placeholders. (Configuration first; the body follows.)"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

PersonalData = Literal["email", "mobile", "landline", "international_phone", "id_card", "bank_card", "ipv4", "ipv6", "qq", "wechat"]


@dataclass(frozen=True, kw_only=True)
class RedactConfig:
    """Which personal data is masked, and how."""

    types: list[PersonalData] = field(
        default_factory=lambda: ["email", "mobile", "landline", "international_phone", "id_card", "bank_card", "ipv4", "ipv6", "qq", "wechat"]
    )
    """The kinds to mask; those left out are let stand."""
    placeholder: str = "<{type}>"
    """What stands in the place of a masked span; `{type}` is its kind."""
