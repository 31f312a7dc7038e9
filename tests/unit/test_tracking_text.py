"""Secrets, limits, names and terminal output: what is said is put in order before it is recorded."""

from __future__ import annotations

import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from anemoi_house.tracking.limits import MAX_KEY, MAX_PARAMS, MAX_TAGS, MAX_VALUE, chosen, fit, fit_key, flatten
from anemoi_house.tracking.redact import Redactor
from anemoi_house.tracking.terminal_capture import TerminalCapture

SECRET = "s3cr3t-0123456789"
ENVIRON = {"AZURE_CLIENT_SECRET": SECRET, "MLFLOW_TRACKING_TOKEN": "tok-abcdef", "TOKENIZERS_PARALLELISM": "true"}


@pytest.mark.parametrize(
    "text",
    [
        f"--secret={SECRET}",
        f"https://someone:{SECRET}@server/path",
        f"Authorization: Bearer {SECRET}{SECRET}",
        f"https://account.blob.core.windows.net/c/b?sv=2023&sig={SECRET}%3D&x=1",
        f"AccountName=a;AccountKey={SECRET}==;EndpointSuffix=b",
    ],
)
@pytest.mark.parametrize("environ", [ENVIRON, {}])
def test_secrets_go(text, environ):
    if environ or SECRET not in Redactor({}).text(text):
        assert SECRET not in Redactor(environ).text(text)
        assert "***" in Redactor(environ).text(text)
    else:
        assert text.startswith("--secret")  # nothing tells that this is one but the environment


def test_web_tokens_go():
    token = "eyJhbGciOiJub25lIn0.eyJleHAiOjE3MDB9.c2ln"
    assert Redactor({}).text(f"refused {token}.") == "refused ***."


def test_other_text_stays():
    text = "val/loss is true, 1e-3; see https://server:5000/#/runs and azureml://host/mlflow/v1.0"
    assert Redactor(ENVIRON).text(text) == text


def test_settings_lose_secrets_by_key_and_by_value():
    settings = {"uri": f"https://a:{SECRET}@b", "password": "unheard-of", "n": 3, "list": [SECRET], "tokens": "12"}
    clean = Redactor(ENVIRON).settings(settings)
    assert clean == {"uri": "https://***@b", "password": "***", "n": 3, "list": ["***"], "tokens": "12"}


def test_flatten_and_choose():
    settings = {"training": {"max_steps": 3, "lr": {"rate": 0.1, "min": 0}}, "model": {"layers": [1, 2]}, "none": {}}
    assert dict(flatten(settings)) == {
        "training.max_steps": 3, "training.lr.rate": 0.1, "training.lr.min": 0, "model.layers": [1, 2], "none": {},
    }  # fmt: skip
    assert chosen(settings, ["training.lr", "model.*", "absent"]) == {
        "training.lr.rate": "0.1", "training.lr.min": "0", "model.layers": "[1, 2]",
    }  # fmt: skip


@given(
    new=st.dictionaries(st.text(min_size=1, max_size=300), st.text(max_size=MAX_VALUE + 20), max_size=30),
    room=st.integers(0, 20),
    what=st.sampled_from(["param", "tag"]),
)
def test_what_fits_is_within_every_limit_and_nothing_goes_unsaid(new, room, what):
    most = MAX_PARAMS if what == "param" else MAX_TAGS
    present = {f"present {number}": "1" for number in range(most - room)}
    fitting, over = fit(what, new, present, most)
    assert len(present | fitting) <= most
    assert all(len(key) <= MAX_KEY and len(value) <= MAX_VALUE for key, value in fitting.items())
    said = {each.key for each in over}
    for key, value in new.items():
        shown, _ = fit_key(what, key)
        assert fitting.get(shown) == value or shown in said or sum(fit_key(what, k)[0] == shown for k in new) > 1


def test_a_parameter_keeps_its_first_value_and_a_tag_takes_the_last():
    fitting, (over,) = fit("param", {"lr": "2"}, {"lr": "1"}, MAX_PARAMS)
    assert fitting == {}
    assert "keeps its first value, '1'" in over.why
    assert fit("tag", {"lr": "2"}, {"lr": "1"}, MAX_TAGS) == ({"lr": "2"}, [])


def test_two_long_keys_stay_two():
    first, second = "a" * 400 + "1", "a" * 400 + "2"
    assert fit_key("metric", first)[0] != fit_key("metric", second)[0]


def test_terminal_output_is_kept_line_by_line(monkeypatch):
    class Stream:
        def __init__(self):
            self.shown = ""

        def write(self, text):
            self.shown += text
            return len(text)

    out, err = Stream(), Stream()
    monkeypatch.setattr(sys, "stdout", out)
    monkeypatch.setattr(sys, "stderr", err)
    kept = []
    terminal = TerminalCapture(kept.append)
    terminal.start()
    print("a line")
    for number in range(50):
        err.write(f"\rstep {number}\x1b[A")
    assert err.write("\n") == 1
    out.write("no end")
    terminal.stop()
    print("afterwards")
    assert "".join(kept) == "a line\nstep 49\nno end\n"
    assert out.shown == "a line\nno endafterwards\n"
    assert err.shown.count("step") == 50
