import random

import msgspec
import pytest

from nightmill.errors import ProviderUnavailable
from nightmill.providers.arrays import ArraySplitter

ELEMENTS = [
    {"key": "a", "text": 'quotes " and \\ and ]}{['},
    {"key": "b", "inlinedResponses": [1, 2], "nested": [[{"x": "\\"}]]},
    {"key": "\\", "text": "\\\\"},
    {},
]


def document(elements: list[dict[str, object]], *, indent: int = 0) -> bytes:
    inner = {"inlinedResponses": {"inlinedResponses": elements}}
    whole = {"name": "batches/1", "metadata": {"state": "X", "output": inner}, "done": True, "response": inner}
    data = msgspec.json.encode(whole)
    return msgspec.json.format(data, indent=indent) if indent else data


@pytest.mark.parametrize("indent", [0, 2])
@pytest.mark.parametrize("size", [1, 2, 3, 7, 64, 100_000])
def test_elements_and_rest_come_out_whole_however_the_bytes_are_cut(size: int, indent: int) -> None:
    data = document(ELEMENTS, indent=indent)
    splitter = ArraySplitter("inlinedResponses")
    out = b"".join(splitter.split(data[at : at + size] for at in range(0, len(data), size)))
    assert [msgspec.json.decode(line) for line in out.split(b"\n") if line] == ELEMENTS
    assert splitter.elements == len(ELEMENTS)
    rest = splitter.rest()
    assert rest["metadata"] == {"state": "X", "output": {"inlinedResponses": {"inlinedResponses": []}}}
    assert rest["done"] is True


def test_random_texts_survive_random_cuts() -> None:
    rng = random.Random(7)
    for _ in range(200):
        elements = [{"t": "".join(rng.choices('\\"[]{},:\nx', k=rng.randrange(12)))} for _ in range(rng.randrange(4))]
        data = document(elements)
        cuts = sorted(rng.choices(range(len(data)), k=5))
        chunks = [data[a:b] for a, b in zip([0, *cuts], [*cuts, len(data)], strict=True)]
        splitter = ArraySplitter("inlinedResponses")
        lines = b"".join(splitter.split(chunks)).split(b"\n")
        assert [msgspec.json.decode(line) for line in lines if line] == elements
        assert splitter.rest()["name"] == "batches/1"


def test_the_second_copy_of_the_results_is_taken_when_the_first_is_empty() -> None:
    data = b'{"metadata":{"inlinedResponses":[]},"response":{"inlinedResponses":[{"key":"a"}]}}'
    assert b"".join(ArraySplitter("inlinedResponses").split([data])) == b'{"key":"a"}\n'


@pytest.mark.parametrize("body", [b"", b"<html>", b"[]", b'{"a":', b'{"inlinedResponses":[{"a":1}', b'{"a":"b'])
def test_what_is_no_json_object_is_a_reason_to_ask_again(body: bytes) -> None:
    splitter = ArraySplitter("inlinedResponses")
    list(splitter.split([body]))
    with pytest.raises(ProviderUnavailable):
        splitter.rest()


def test_one_huge_string_does_not_stay_in_memory() -> None:
    splitter = ArraySplitter("results")
    chunks = iter([b'{"results":[{"t":"', *[b"x" * 65_536] * 50, b'"}]}'])
    sizes = [len(piece) for piece in splitter.split(chunks)]
    assert max(sizes) <= 65_536
    assert splitter.elements == 1
