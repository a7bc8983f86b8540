"""Vocabularies of exported models: every id has a token, every byte too, and words are what their merges make."""

from __future__ import annotations

from itertools import pairwise

import pytest

from membound.kernels.tokenizer import COMMON, SPACE, SPECIAL, byte_pairs, letters, tokenizer_files


def encoded(text: str, size: int) -> list[int]:
    """Byte-level byte-pair encoding of one word, by rank, as its definition has it."""
    made = byte_pairs(size)
    ids = {token: i for i, token in enumerate(made.tokens)}
    ranks = {pair: i for i, pair in enumerate(made.merges)}
    parts = [letters()[byte] for byte in text.encode()]
    while True:
        pairs = [(ranks[a, b], i) for i, (a, b) in enumerate(pairwise(parts)) if (a, b) in ranks]
        if not pairs:
            return [ids[part] for part in parts]
        _, at = min(pairs)
        parts[at : at + 2] = [parts[at] + parts[at + 1]]


def decoded(ids: list[int], size: int) -> str:
    bytes_of = {letter: byte for byte, letter in enumerate(letters())}
    return bytes(bytes_of[letter] for i in ids for letter in byte_pairs(size).tokens[i]).decode()


@pytest.mark.parametrize("size", [1000, 32000])
def test_every_id_has_a_token_of_its_own(size: int) -> None:
    tokens = byte_pairs(size).tokens
    assert len(tokens) == len(set(tokens)) == size
    assert tokens[:4] == SPECIAL
    assert len(letters()) == len(set(letters())) == 256
    assert letters()[ord(" ")] == SPACE
    assert tokens[-1] == f"w{size - 1}"


@pytest.mark.parametrize("text", [" the", " people", "people", " peoples", " naïve", "日本", "\t\n", " Ġ"])
def test_any_text_comes_back(text: str) -> None:
    assert decoded(encoded(text, 1000), 1000) == text


def test_common_words_are_a_token_each() -> None:
    assert all(len(encoded(f" {word}", 32000)) == 1 for word in COMMON)
    assert len(encoded(" people", 1000)) == 1
    assert len(encoded(" xyzzy", 32000)) == 6


def test_whole_letters_leave_out_what_has_no_text() -> None:
    tokens = byte_pairs(1000, whole_letters=True).tokens
    assert len(set(tokens)) == 1000
    assert letters()[200] not in tokens
    assert letters()[65] in tokens


def test_a_small_vocabulary_has_what_it_has_room_for() -> None:
    assert byte_pairs(40).tokens == (*SPECIAL, *letters()[:36])
    assert byte_pairs(40).merges == ()


def test_the_files_say_the_same() -> None:
    files = tokenizer_files(1000, 4096)
    model = files["tokenizer.json"]["model"]
    assert [*model["vocab"]] == [*byte_pairs(1000).tokens]
    assert model["merges"][0] == f"{SPACE} t"
    settings = files["tokenizer_config.json"]
    assert (settings["model_max_length"], settings["eos_token"]) == (4096, "</s>")
    assert "add_generation_prompt" not in settings["chat_template"]
    assert "message['content']" in settings["chat_template"]
