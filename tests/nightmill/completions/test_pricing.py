from collections.abc import Iterator
from decimal import Decimal

import pytest
from pydantic import SecretStr

from nightmill.completions.pricing import Price, Tally, cost_picodollars, dollars, find_price
from nightmill.completions.requests import read_request_objects
from nightmill.errors import NotConfigured
from nightmill.providers.base import BatchProvider, Usage
from nightmill.providers.config import ProviderConfig
from nightmill.providers.registry import PROVIDER_NAMES, open_provider


@pytest.fixture(scope="module")
def providers() -> Iterator[dict[str, BatchProvider]]:
    config = ProviderConfig(api_key=SecretStr("key"), base_url="http://127.0.0.1:1")
    opened = {name: open_provider(name, config) for name in PROVIDER_NAMES}
    yield opened
    for provider in opened.values():
        provider.close()


def price(given: str, made: str, cached: str = "0", written: str = "0", below: int | None = None) -> Price:
    """Return a price given in dollars per million tokens."""
    per = [Decimal(text) / 1_000_000 for text in (given, made, cached, written)]
    return Price(input=per[0], output=per[1], cached=per[2], cache_write=per[3], input_below=below)


@pytest.mark.parametrize(
    ("usage", "unit", "extra", "picodollars"),
    [
        (None, price("1", "1"), False, None),
        (Usage(input=1), None, False, None),
        (Usage(), price("1", "1"), False, 0),
        (Usage(input=1, output=1), price("0.125", "1"), False, 125_000 + 1_000_000),
        (Usage(input=100, cached=40), price("1", "1", "0.1"), False, 60_000_000 + 4_000_000),
        (Usage(input=100, cached=40), price("1", "1", "0.1"), True, 100_000_000 + 4_000_000),
        (Usage(input=10, cached=40), price("1", "1", "0.1"), False, 1_000_000),  # never less than nothing
        (Usage(cache_write=8), price("1", "1", "0", "1.25"), True, 10_000_000),
        (Usage(output=10, reasoning=9), price("1", "2"), False, 20_000_000),  # reasoning is in the output
        (Usage(input=2**31 - 1, output=2**31 - 1), price("75", "150"), False, (2**31 - 1) * 225_000_000),
        (Usage(input=199_999), price("1", "1", below=200_000), False, 199_999_000_000),
        (Usage(input=200_000), price("1", "1", below=200_000), False, None),  # another price, not known
        (Usage(input=150_000, cached=60_000), price("1", "1", below=200_000), True, None),
    ],
)
def test_costs_are_exact_or_unknown(
    usage: Usage | None, unit: Price | None, extra: bool, picodollars: int | None
) -> None:
    assert cost_picodollars(usage, unit, cached_is_extra=extra) == picodollars


def test_ten_million_costs_add_up_without_a_rounding_error() -> None:
    one = cost_picodollars(Usage(input=1), price("0.0375", "0"), cached_is_extra=False)
    assert one is not None
    assert dollars(one * 10_000_000) == Decimal("0.375")


def test_overrides_come_first_and_are_halved_for_batches(providers: dict[str, BatchProvider]) -> None:
    overrides = {"gpt-5-mini": {"input": Decimal(4), "output": Decimal(8)}}
    found = find_price(providers["openai"], "gpt-5-mini", overrides)
    assert found == price("2", "4", "2", "2")
    overrides["openai/gpt-5-mini"] = {n: Decimal(1) for n in ("input", "output", "cached", "multiplier")}
    assert find_price(providers["openai"], "gpt-5-mini", overrides) == price("1", "1", "1", "1")


@pytest.mark.parametrize(
    "given", [{}, {"input": Decimal(1)}, {"input": Decimal(1), "output": Decimal(-1)}, {"inputs": Decimal(1)}]
)
def test_an_override_that_cannot_be_used_names_the_setting(
    providers: dict[str, BatchProvider], given: dict[str, Decimal]
) -> None:
    with pytest.raises(NotConfigured, match="NIGHTMILL_PRICES: m:"):
        find_price(providers["openai"], "m", {"m": given})


@pytest.mark.parametrize(
    ("name", "model", "factor"),
    [
        ("openai", "gpt-5-mini", "0.5"),
        ("anthropic", "claude-sonnet-4-5", "0.5"),
        ("google", "gemini-2.5-flash", "0.5"),
        ("xai", "grok-4", "0.5"),  # the table knows no batch price, so the provider's factor applies
    ],
)
def test_published_prices_are_batch_prices(
    providers: dict[str, BatchProvider], name: str, model: str, factor: str
) -> None:
    from genai_prices import Usage as Tokens
    from genai_prices import calc_price

    ordinary = calc_price(
        Tokens(input_tokens=1_000, output_tokens=0), model, provider_id={"xai": "x-ai"}.get(name, name)
    )
    found = find_price(providers[name], model)
    assert found is not None
    assert found.input * 1_000 == ordinary.total_price * Decimal(factor)
    assert found.output > found.input > 0
    assert Price.from_json(found.to_json()) == found


def test_long_inputs_with_another_price_are_known_as_such(providers: dict[str, BatchProvider]) -> None:
    found = find_price(providers["anthropic"], "claude-sonnet-4-5")
    assert found is not None
    assert found.input_below == 200_000


def test_frozen_prices_are_what_a_batch_is_billed_by(providers: dict[str, BatchProvider]) -> None:
    overrides = {"m": {"input": Decimal("0.3"), "output": Decimal(2), "cached": Decimal("0.03")}}
    found = find_price(providers["openai"], "m", overrides)
    assert found is not None
    stored = found.to_json()
    assert stored == {
        "input": "0.00000015",
        "output": "0.000001",
        "cached": "0.000000015",
        "cache_write": "0.00000015",
    }
    usage = Usage(input=10, cached=4, output=1)
    cost = cost_picodollars(usage, Price.from_json(stored), cached_is_extra=False)
    assert cost == 6 * 150_000 + 4 * 15_000 + 1_000_000


def test_an_unknown_model_has_no_price(providers: dict[str, BatchProvider]) -> None:
    for provider in providers.values():
        assert find_price(provider, "no-such-model") is None


def test_an_estimate_counts_what_would_be_sent(providers: dict[str, BatchProvider]) -> None:
    requests = [
        {"custom_id": "a", "prompt": "x" * 400, "max_output_tokens": 50},
        {"custom_id": "b", "prompt": "x" * 400},
        {"custom_id": "c", "body": {"model": "m", "input": 'say "max_output_tokens": 7', "max_output_tokens": 30}},
    ]
    for unit in (price("1", "2"), None):
        tally = Tally(providers["openai"], unit)
        stored = list(read_request_objects(requests, provider=providers["openai"], model="m"))
        for one in stored:
            tally.add(one.line)
        found = tally.estimate()
        sizes = [len(one.line) for one in stored]
        assert (found.requests, found.bytes, found.provider_batches) == (3, sum(sizes), 1)
        assert found.input_tokens == sum(-(-size // 4) for size in sizes)
        assert (found.output_tokens, found.unbounded) == (50 + 1_000 + 30, 1)
        if unit is None:
            assert found.cost is None
            assert "NIGHTMILL_PRICES" in (found.no_cost_because or "")
        else:
            assert found.cost == (found.input_tokens + 2 * found.output_tokens) * Decimal("0.000001")


def test_embeddings_are_estimated_without_output(providers: dict[str, BatchProvider]) -> None:
    tally = Tally(providers["openai"], find_price(providers["openai"], "text-embedding-3-small"))
    reader = read_request_objects(
        [{"custom_id": "a", "prompt": "x"}], provider=providers["openai"], model="m", endpoint="/v1/embeddings"
    )
    for one in reader:
        tally.add(one.line)
    found = tally.estimate()
    assert (found.output_tokens, found.unbounded) == (0, 0)
    assert found.cost == found.input_tokens * Decimal("0.01") / 1_000_000
