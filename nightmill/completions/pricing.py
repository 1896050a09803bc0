"""What completions cost: unit prices frozen with a batch, exact sums, and an estimate beforehand."""

from __future__ import annotations

import re
from array import array
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from functools import cached_property
from typing import TYPE_CHECKING, Any

from nightmill.completions.planning import plan_parts
from nightmill.errors import NotConfigured

if TYPE_CHECKING:
    from nightmill.providers.base import BatchProvider, Usage

PICODOLLARS = 10**12
"""A US dollar in the unit that costs are stored in. The cheapest batch token today is about 2,500 of them."""

CHARACTERS_PER_TOKEN = 4
ASSUMED_OUTPUT_TOKENS = 1_000
"""Output tokens estimated for a request that sets no maximum."""

_MILLION = Decimal(1_000_000)
_UNITS = 10**6  # of the unit of `Price.units` in a picodollar
_HALF = _UNITS // 2
_NAMES = ("input", "output", "cached", "cache_write")
_GENAI_PROVIDERS = {"openai": "openai", "anthropic": "anthropic", "google": "google", "xai": "x-ai"}
# In valid JSON these quotes cannot stand inside a string, where they would be escaped.
_MAX_OUTPUT = re.compile(
    rb'"(?:max_output_tokens|max_completion_tokens|max_tokens|maxOutputTokens)"\s*+:\s*+(\d{1,9})\b'
)


@dataclass(frozen=True, kw_only=True)
class Price:
    """US dollars per token in a batch, the provider's batch multiplier included.

    Attributes:
        input: Fresh input tokens.
        output: Output tokens, reasoning included.
        cached: Input tokens read from the provider's cache.
        cache_write: Input tokens written to it.
        input_below: A longer input has another price, which is not known here; None where there is no such step.
    """

    input: Decimal
    output: Decimal
    cached: Decimal
    cache_write: Decimal
    input_below: int | None = None

    def to_json(self) -> dict[str, Any]:
        """Return the price for storage: decimals as strings."""
        stored: dict[str, Any] = {name: f"{getattr(self, name).normalize():f}" for name in _NAMES}
        return stored | ({"input_below": self.input_below} if self.input_below is not None else {})

    @cached_property
    def units(self) -> tuple[int, ...]:
        """The four prices in 1e-18 dollars: whole numbers, so that sums are exact and quick."""
        return tuple(int(getattr(self, name).scaleb(18).to_integral_value()) for name in _NAMES)

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> Price:
        """Return the price that `to_json` stored."""
        return cls(**{name: Decimal(stored[name]) for name in _NAMES}, input_below=stored.get("input_below"))


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """What submitting would send and cost, before anything is sent.

    Attributes:
        requests: Number of requests.
        bytes: Sum of the rendered lines.
        provider_batches: How many batches at the provider.
        input_tokens: ⌈characters of the rendered line / 4⌉, summed; rather too much, for the JSON counts as well.
        output_tokens: The requests' own maxima, summed, with 1,000 for each request that sets none.
        unbounded: How many set none.
        cost: US dollars for those tokens, nothing taken from a cache; None where no price is known.
        no_cost_because: Why there is no cost.
    """

    requests: int
    bytes: int
    provider_batches: int
    input_tokens: int
    output_tokens: int
    unbounded: int
    cost: Decimal | None
    no_cost_because: str | None = None


def find_price(
    provider: BatchProvider, model: str, overrides: Mapping[str, Mapping[str, Decimal]] | None = None
) -> Price | None:
    """Return the unit prices to freeze with a batch, None if none are known.

    Overrides come first, then the table of the package `genai-prices`, which travels with it; nothing is fetched.

    Args:
        provider: Its `batch_multiplier` applies to ordinary prices.
        model: The provider's model name.
        overrides: Ordinary (not batch) US dollars per million tokens by model, or by `provider/model`, which wins:
            `input` and `output`, and perhaps `cached` and `cache_write` (default: as input), and `multiplier`.

    Raises:
        NotConfigured: An override cannot be used.
    """
    table = overrides or {}
    given = table.get(f"{provider.name}/{model}", table.get(model))
    if given is not None:
        return _overridden(given, model, Decimal(provider.batch_multiplier))
    return _published(_GENAI_PROVIDERS.get(provider.name), model, Decimal(provider.batch_multiplier))


def _overridden(given: Mapping[str, Decimal], model: str, multiplier: Decimal) -> Price:
    unknown = given.keys() - {*_NAMES, "multiplier"}
    if unknown or not {"input", "output"} <= given.keys() or min(given.values()) < 0:
        raise NotConfigured(
            f"NIGHTMILL_PRICES: {model}: input and output are needed, cached, cache_write and multiplier may follow"
        )
    factor = given.get("multiplier", multiplier) / _MILLION
    fallback = given["input"]
    return Price(
        input=given["input"] * factor,
        output=given["output"] * factor,
        cached=given.get("cached", fallback) * factor,
        cache_write=given.get("cache_write", fallback) * factor,
    )


def _published(provider_id: str | None, model: str, multiplier: Decimal) -> Price | None:
    if provider_id is None:
        return None
    from genai_prices import Usage, calc_price  # takes 0.8 s to import and is needed once a batch

    try:
        ordinary = calc_price(Usage(input_tokens=1), model, provider_id=provider_id).model_price
        batch = calc_price(
            Usage(input_tokens=1), model, provider_id=provider_id, price_context={"processing": "batch"}
        ).model_price
    except LookupError:
        return None
    # Where the table knows batch prices, they are better than a factor: Gemini's cache, say, costs the same in batches.
    known = _base(batch.input_mtok) != _base(ordinary.input_mtok)
    prices, factor = (batch, 1 / _MILLION) if known else (ordinary, multiplier / _MILLION)
    given = _base(prices.input_mtok)
    if given is None:
        return None
    made, cached, written = (_base(p) for p in (prices.output_mtok, prices.cache_read_mtok, prices.cache_write_mtok))
    steps = [tier.start for price in (prices.input_mtok, prices.output_mtok) for tier in getattr(price, "tiers", ())]
    return Price(
        input=given * factor,
        output=(made or Decimal(0)) * factor,  # embeddings have no output
        cached=(given if cached is None else cached) * factor,
        cache_write=(given if written is None else written) * factor,
        input_below=min(steps, default=None),
    )


def _base(price: Any) -> Decimal | None:
    """Return a price without its steps for long inputs."""
    base = getattr(price, "base", price)
    return Decimal(base) if base is not None else None


def cost_picodollars(usage: Usage | None, price: Price | None, *, cached_is_extra: bool) -> int | None:
    """Return the exact cost in 1e-12 US dollars; None, never 0, where tokens or price are not known.

    Args:
        usage: The completion's tokens.
        price: The batch's frozen price.
        cached_is_extra: Whether cached tokens come on top of the input tokens (Anthropic) or are contained in them.
    """
    if usage is None or price is None:
        return None
    cached = usage.cached if cached_is_extra else min(usage.cached, usage.input)
    fresh = usage.input if cached_is_extra else usage.input - cached
    if price.input_below is not None and fresh + cached + usage.cache_write >= price.input_below:
        return None
    given, made, kept, written = price.units
    total = fresh * given + cached * kept + usage.cache_write * written + usage.output * made
    return (total + _HALF) // _UNITS


def dollars(picodollars: int) -> Decimal:
    """Return a stored cost, or a sum of such, in US dollars."""
    return Decimal(picodollars) / PICODOLLARS


class Tally:
    """Adds up an estimate while requests stream by; keeps eight bytes a request."""

    def __init__(self, provider: BatchProvider, price: Price | None) -> None:
        self._provider = provider
        self._price = price
        self._sizes = array("Q")
        self._input = self._output = self._unbounded = 0

    def add(self, line: bytes) -> None:
        """Add one rendered line."""
        self._sizes.append(len(line))
        characters = len(line) if line.isascii() else len(line.decode())
        self._input += -(-characters // CHARACTERS_PER_TOKEN)
        if b'"url":"/v1/embeddings"' in line[:1_000]:
            return
        found = _MAX_OUTPUT.search(line)
        self._output += int(found[1]) if found else ASSUMED_OUTPUT_TOKENS
        self._unbounded += found is None

    def estimate(self) -> Estimate:
        """Return the estimate of all that was added."""
        price = self._price
        return Estimate(
            requests=len(self._sizes),
            bytes=sum(self._sizes),
            provider_batches=sum(1 for _ in plan_parts(enumerate(self._sizes), self._provider.limits)),
            input_tokens=self._input,
            output_tokens=self._output,
            unbounded=self._unbounded,
            cost=None if price is None else self._input * price.input + self._output * price.output,
            no_cost_because="no price is known for the model; set NIGHTMILL_PRICES" if price is None else None,
        )
