"""How numbers, times, settings and the refusal of a keyword read."""

import pytest

from scattergen.calls.keywords import check_keywords
from scattergen.decoder.generator import Decoder
from scattergen.display.words import duration, number, setting
from scattergen.errors import InputError


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0.001, "< 0.01 s"), (0.042, "0.04 s"), (8.94, "8.9 s"), (134, "2 min 14 s"), (3780, "1 h 03 min")],
)
def test_durations_read_as_a_person_would_say_them(seconds, words):
    assert duration(seconds) == words


def test_numbers_have_a_true_minus_but_of_0():
    assert (number(60000), number(-1.5, 1), number(-0.01, 1), number(float("inf"))) == ("60,000", "−1.5", "0.0", "∞")


def test_settings_have_no_brackets_and_no_noise():
    assert (setting((512, 256)), setting(0.001), setting(None)) == ("512, 256", "0.001", "none")


def test_a_keyword_of_another_type_is_refused():
    with pytest.raises(InputError, match="kernel_size='large' does not suit the decoder: give "):
        check_keywords("the decoder", Decoder, {"kernel_size": "large"})
