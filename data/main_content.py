"""Find the part of a page that its reader came for, and mark what inside it is not text.

A page is walked once. Every piece of text outside links counts by how much it reads like sentences; a sum for each
element follows. What calls itself navigation, sharing, comments, advertising and the like by its tag, class or id is
marked as junk, unless most of the page's sentences are in it. The main content is the element that calls itself the
article, if it holds most of what is left; otherwise the smallest element that holds nearly all. Text and link density
are those of Kohlschütter, Fankhauser and Nejdl 2010, "Boilerplate Detection using Shallow Text Features"; that pages
name their parts by class is what Readability and trafilatura (Barbaresi 2021) rest on as well.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

Element = Any  # lxml ships no types


def _names(words: str) -> frozenset[str]:
    return frozenset(words.split())


REMOVED = _names(
    "script style noscript template iframe frame frameset object embed applet audio video canvas svg map area head "
    "link meta button select option optgroup datalist input textarea output progress dialog menu nav footer aside "
    "picture img source track param rp rt rtc marquee blink title base noframes"
)
"""Tags that hold no text of a page's own."""
GUARDED = _names("footer aside menu dialog nav noscript")
"""Of those, the ones that are kept where most of a page's sentences are in them: pages misuse them."""
BLOCKS = _names(
    "div p section article main header ul ol li dl dt dd table tbody thead tfoot tr td th form center blockquote pre "
    "h1 h2 h3 h4 h5 h6 details summary fieldset address figure figcaption caption legend body hgroup "
    "footer aside menu dialog nav"
)
PARAGRAPHS = _names("p li dd dt td th blockquote pre")
HEADINGS = _names("h1 h2 h3 h4 h5 h6")

_JUNK = re.compile(
    r"(?<![a-z])(?:nav|navi|navbar|navbox|navigation|navibox|subnav|sidenav|topnav|breadcrumbs?|crumbs?|menu|menubar|"
    r"submenu|sidebar|footer|footbar|related|relate|recommend(?:ed|ations?|s)?|share|sharing|sharebar|"
    r"sharedaddy|social|sociable|comments?|commentlist|disqus|respond|ads?|adv|advert|adverts|advertisement|"
    r"advertising|adsense|adsbygoogle|adbox|adslot|sponsor(?:ed|s)?|promo|promotion|banner|cookies?|consent|"
    r"gdpr|newsletter|subscribe|subscription|signup|tags|tagcloud|taglist|pagination|pager|paginator|paging|"
    r"prevnext|pagenav|pagebar|toolbar|toolbox|widgets?|popup|modal|overlay|hidden|noprint|editsection|author|"
    r"byline|postmeta|meta|timestamp|dateline|infoline|copyright|rating|skiplink|topbar|bottombar|totop|"
    r"backtop|backtotop|qrcode|gutter|linenos?|linenumbers?|login|register|searchbox|searchform|outbrain|"
    r"taboola|teasers?|paywall|print|headerlink|anchorjs|permalink|catlinks|viewcount|announcement|reprint|"
    r"sitemap|friendlinks?|hotnews|rss|katex-html|mathjax_preview|sr-only|screen-reader-text|visually-hidden)"
    r"(?![a-z])"
)
_APART_JUNK = re.compile(r"(?<![a-z])(?:comments?|commentlist|disqus|cookies?|consent|gdpr|popup|modal)(?![a-z])")
"""What is no part of an article even where it is longer: its readers' comments, and what has to be agreed to."""
_INLINE_JUNK = re.compile(
    r"(?<![a-z])(?:editsection|headerlink|anchorjs|permalink|katex-html|mathjax_preview|sr-only|screen-reader-text|"
    r"visually-hidden|gutter|linenos?|noprint|hidden|adsbygoogle)(?![a-z])"
)
"""Within a line much less is junk: a sentence may name a menu in an element that is called so."""
_CAMEL = re.compile(r"(?<=[a-z])(?=[A-Z])")
_HIDING = re.compile(r"display\s*:\s*none|visibility\s*:\s*hidden", re.IGNORECASE)
_NAMED = re.compile(
    r"(?<![a-z])(?:(?:post|entry|article|blog|story|news|text|art|detail|topic|single|page|markdown|theme|rich_?media|"
    r"field|wiki|doc|docs)[-_]*(?:content|body|text|entry|bodycopy|detail)|(?:content|body|main)[-_]*(?:body|text|"
    r"content|article)|mw-parser-output|hentry|articlebody|postbody|markdown-body)(?![a-z])"
)
_SENTENCE = re.compile("[。！？；，：、…」』”]|[,.;:!?][\"')\u2019\u201d]*(?:\\s|$)")
MOST, NEARLY_ALL = 0.6, 0.85
"""The share of a page's sentences that its main content holds at least, where it is named as such and where not."""
LARGE, NEARLY_WHOLE = 0.4, 0.8
"""What holds more than this share of a page's sentences is no junk, whatever it is called; comments may hold more."""


@dataclass(slots=True)
class Weights:
    """What an element holds, with all that is in it."""

    sentences: float = 0.0
    """Characters outside links, those without any mark of a sentence at a fifth."""
    characters: int = 0
    """Characters that are no white space, at the ends of a text at least."""
    linked: int = 0
    """Of those, the ones in links."""
    links: int = 0
    paragraphs: int = 0
    """Characters in paragraphs, list items and cells."""


@dataclass(slots=True)
class MainContent:
    """The element to read, what in it is to be passed over, and the weights of every element."""

    element: Element
    junk: set[Element]
    weights: dict[Element, Weights]


class _Walk:
    """One walk over a page; recursion is bounded by the parser, which nests 256 deep at most."""

    def __init__(self) -> None:
        self.weights: dict[Element, Weights] = {}
        self.suspects: list[tuple[Element, float]] = []
        self.hidden: list[Element] = []
        self.named: list[Element] = []

    def visit(self, element: Element, linked: bool, paragraph: bool, preformatted: bool) -> Weights:
        """Weigh an element and all below it."""
        tag = element.tag
        own = Weights()
        self.weights[element] = own
        if tag == "a" and not linked:
            linked = element.get("href") is not None
            own.links = int(linked)
        paragraph = paragraph or tag in PARAGRAPHS
        if preformatted or tag in ("pre", "code"):
            preformatted = True
        elif tag == "article":
            self.named.append(element)
        if element.attrib and tag != "body":
            self._name(element, tag, preformatted)
        self._text(own, element.text, linked, paragraph)
        for child in element:
            if isinstance(child.tag, str) and (child.tag not in REMOVED or child.tag in GUARDED):
                below = self.visit(child, linked, paragraph, preformatted)
                own.sentences += below.sentences
                own.characters += below.characters
                own.linked += below.linked
                own.links += below.links
                own.paragraphs += below.paragraphs
                if child.tag in GUARDED:
                    self.suspects.append((child, LARGE))
            if child.tail:
                self._text(own, child.tail, linked, paragraph)
        return own

    def _text(self, own: Weights, text: str | None, linked: bool, paragraph: bool) -> None:
        if not text:
            return
        size = len(text.strip())
        if not size:
            return
        own.characters += size
        if linked:
            own.linked += size
            return
        own.sentences += size if _SENTENCE.search(text) else 0.2 * size
        if paragraph:
            own.paragraphs += size

    def _name(self, element: Element, tag: str, preformatted: bool) -> None:
        """Look at what an element calls itself."""
        attributes = element.attrib
        called = f"{attributes.get('class', '')} {attributes.get('id', '')} {attributes.get('role', '')}"
        if len(called) > 2:
            called = _CAMEL.sub("-", called).lower()
            junk = _JUNK if tag in BLOCKS and not preformatted else _INLINE_JUNK
            if junk.search(called) and tag not in ("article", "main"):
                self.suspects.append((element, NEARLY_WHOLE if _APART_JUNK.search(called) else LARGE))
            elif tag in ("div", "section", "article", "main", "td", "table") and _NAMED.search(called):
                self.named.append(element)
        if attributes.get("itemprop") == "articleBody":
            self.named.append(element)
        style = attributes.get("style")
        if "hidden" in attributes or attributes.get("aria-hidden") == "true" or (style and _HIDING.search(style)):
            self.hidden.append(element)


def find_main_content(body: Element) -> MainContent:
    """The main content of a page, from its `body` element."""
    walk = _Walk()
    whole = walk.visit(body, False, False, False)
    weights = walk.weights
    called = {one for one, share in walk.suspects if weights[one].sentences <= share * whole.sentences}
    junk = called.union(one for one in walk.hidden if weights[one].sentences <= LARGE * whole.sentences)
    left = _without(junk, weights)
    if left[body] < LARGE * whole.sentences:  # a page that shows itself piece by piece
        junk, left = called, _without(called, weights)
    named = [one for one in walk.named if one not in junk and left.get(one, 0.0) >= MOST * left[body]]
    # two that both hold most of a page lie one in the other: the inner one is named last
    element = named[-1] if named else _smallest(body, left, weights, NEARLY_ALL * left[body])
    return MainContent(element=element, junk=junk, weights=weights)


def _without(junk: set[Element], weights: dict[Element, Weights]) -> dict[Element, float]:
    """The sentences of every element, less those of the junk in it."""
    left = {one: own.sentences for one, own in weights.items()}
    for one in junk:
        above = [ancestor for ancestor in one.iterancestors() if ancestor in left]
        if junk.isdisjoint(above):
            for ancestor in above:
                left[ancestor] -= weights[one].sentences
    return left


def _smallest(element: Element, left: dict[Element, float], weights: dict[Element, Weights], enough: float) -> Element:
    """The smallest element below that still holds enough; lists, paragraphs and single sections are not gone into."""
    while True:
        children = [child for child in element if child.tag in BLOCKS and left.get(child, 0.0) > 0]
        large = [one for one in children if left[one] >= enough and one.tag not in ("ul", "ol", "dl", "p", "pre")]
        if not large or any(_is_section(one, weights[one]) for one in children if one is not large[0]):
            return element
        element = large[0]


def _is_section(element: Element, own: Weights) -> bool:
    """Whether an element is a heading with paragraphs below it, and no menu."""
    if own.paragraphs < 0.5 * own.characters or own.linked > 0.2 * own.characters:
        return False
    return any(True for _ in element.iter(*HEADINGS))
