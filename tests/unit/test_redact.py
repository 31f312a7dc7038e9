"""Secrets of all kinds are hidden wherever a run could write them; harmless names and texts are left alone."""

from __future__ import annotations

import json
import os
from io import BytesIO
from urllib.parse import quote

import pytest
import yaml
from hypothesis import assume, given
from hypothesis import strategies as st

from anemoi_house.tracking.redact import Redactor

S = "s3cr3t-0123456789"
VARIABLES = [
    "AZURE_CLIENT_SECRET", "AZURE_STORAGE_KEY", "WANDB_API_KEY", "WANDB_KEY", "MY_ENCRYPTION_KEY",
    "MLFLOW_TRACKING_TOKEN",
    "MLFLOW_TRACKING_PASSWORD", "DB_PASS", "DB_PWD", "GITHUB_PAT", "STORAGE_SAS", "AZURE_STORAGE_SAS_TOKEN",
    "AWS_SECRET_ACCESS_KEY", "AWS_ACCESS_KEY_ID", "VAULT_SECRET_ID", "PGPASSWORD", "SSHPASS", "SMTP_PASSWD",
    "GPG_PASSPHRASE", "AZURE_STORAGE_CONNECTION_STRING", "SERVICE_CREDENTIALS", "apiKey", "accountKey", "dbPassword",
    "SLURM_JWT", "HF_TOKEN_PROD", "CLIENT_SECRET_2", "SECRET_KEY_BASE",
]  # fmt: skip
"""Names that tell by themselves."""
TEXTS = [
    f"https://{S}@server/path",
    f"https://someone:{S}@server/path",
    "mysql://root:p/ss" + S + "@db:3306/runs",
    "postgresql://user:p@ss/" + S + "@host/runs",
    "storage_options={key:abc,secret:" + S + "}",
    "{'password': b'" + S + "'}",
    f"postgresql+psycopg://u:{S}@db/x",
    f"https://u:a@{S}@server",
    f"http://host/?token={S}",
    f"http://host/#access_token={S}&x=1",
    f"https://account.blob.core.windows.net/c/b?sv=2023&sig={S}%3D&x=1",
    f"AccountName=a;AccountKey={S}==;EndpointSuffix=b",
    f"SharedAccessKeyName=n;SharedAccessKey={S}",
    f"Authorization: Bearer {S}{S}",
    f"authorization: token {S}",
    f"X-Api-Key: {S}",
    f"overrides=my.password={S}",
    f'command: "train my.password={S}"',
    f"curl -u someone:{S} https://server",
    f"train --password {S} --steps 3",
    f"train --api-key={S}",
    f"machine server login me password {S}",
    f"train +my.password={S}",
    f'{{"password": "{S}"}}',
    f"{{'token': '{S}'}}",
    f"password: correct horse {S}",
    f"export DB_PASS='{S}'",
    f"-----BEGIN RSA PRIVATE KEY-----\nMII{S}\n-----END RSA PRIVATE KEY-----",
    f"https://hooks.slack.com/services/T00/B00/{S.replace('-', '')}",
    f"ghp_{S.replace('-', '') * 2}",
    f"glpat-{S}",
    f"hf_{S.replace('-', '') * 2}",
    f"sk-proj-{S}{S}",
    "eyJhbGciOiJub25lIn0.eyJleHAiOjE3MDB9.c2ln",
    "AKIA" + "ABCDEFGH12345678",
    "abc8Q~" + "x1" * 17,
    "A1b2" * 21 + "Zz==",
]
HARMLESS = {
    "num_tokens": "131072", "tokenizer": "sentencepiece-32000", "TOKENIZERS_PARALLELISM": "true-ish-value",
    "token_dim": "dimension-1024", "max_token_length": "length-2048", "eos_token": "<|endoftext|>",
    "tokens": "t_850-and-u_850",
    "sort_key": "valid_time", "key": "val/mse_inner_ring", "num_key_value_heads": "heads-0000012",
    "bypass": "residual-connection",
    "compass": "north-north-west", "low_pass": "butterworth-4", "forward_pass": "checkpointed", "pattern": "val/mse/*",
    "author": "A. Forecaster 1234", "secretary": "A. Nother 12345", "password_min_length": "twelve-and-more",
    "secret_name": "the-name-of-it-01", "AZURE_KEY_VAULT_URL": "https://vault.example.org/1234",
    "monkey": "business-as-usual-1", "config_path": "/home/me/runs/config-1234567",
}  # fmt: skip


@pytest.mark.parametrize("name", VARIABLES)
def test_a_value_with_the_name_of_a_secret_is_hidden_everywhere(name: str) -> None:
    of_variable = Redactor({name: S})
    for text in (S, quote(S, safe=""), f"a line with {S}, and more", json.dumps({"x": S})):
        assert S not in of_variable.text(text)
    of_name = Redactor({})
    settings = {"deep": [{name: S}, {"a": {name: [S]}}]}
    assert S not in str(of_name.settings(settings))
    for text in (
        f"{name}={S}",
        f'{name} = "{S}"',
        f"export {name}={S}",
        json.dumps(settings),
        yaml.safe_dump({name: S}),
    ):
        assert S not in of_name.text(text), text
        assert S.encode() not in b"".join(of_name.pieces(BytesIO(text.encode())))
    assert S not in str(of_name.command([f"my.{name}={S}", f"+{name}='{S}'", f"--{name}", S, f"--{name}={S}"]))


@pytest.mark.parametrize("text", TEXTS)
def test_a_secret_is_hidden_by_its_shape(text: str) -> None:
    clean = Redactor({}).text(f"before {text} after" if "\n" not in text and ": " not in text[:16] else text)
    assert "***" in clean
    assert S not in clean
    assert S.replace("-", "") not in clean
    assert Redactor({}).text(clean) == clean


@pytest.mark.parametrize(("name", "value"), HARMLESS.items())
def test_harmless_names_are_left_alone(name: str, value: str) -> None:
    redactor = Redactor({name: value})
    assert redactor.settings({name: value, "other": {"text": value}}) == {name: value, "other": {"text": value}}
    for text in (value, f"{name}={value}", f"{name}: {value}", json.dumps({name: value}), f"train +x.{name}={value}"):
        assert redactor.text(text) == text
    assert redactor.command([f"x.{name}={value}", f"--{name}", value]) == [f"x.{name}={value}", f"--{name}", value]


@pytest.mark.parametrize(
    "text",
    [
        "val/loss is true, 1e-3; see https://server:5000/#/runs and azureml://host/mlflow/v1.0",
        "abfss://container@account.dfs.core.windows.net/data.zarr and git+ssh://git@github.com/ecmwf/anemoi-core",
        "Epoch 3: pass: 12/20, token: identifier, key: t_850, signature: (x, y)",
        "password: ${oc.env:DB_PASSWORD}",
        "commit 0f9d8c7b6a5f4e3d2c1b0a9f8e7d6c5b4a392817 of me@example.org",
        "sqlite:////scratch/me@site/mlflow.db?timeout=20",
        "a wrong password is reported; secrets stay out of it; tokens=4096",
    ],
)
def test_other_text_stays(text: str) -> None:
    assert Redactor({"PWD": "/nowhere/at/all", "OLDPWD": "/gone/too"}).text(text) == text


def test_numbers_are_secrets_only_where_a_password_is_meant() -> None:
    settings = {"password": 12345678, "num_tokens": 12345678, "token": 50256, "secret_flag": True, "seed": 12345678}
    assert Redactor({}).settings(settings) == settings | {"password": "***"}


TYPED = st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=8, max_size=40)


@given(secret=TYPED)
def test_whatever_a_password_is_made_of_it_is_hidden(secret: str) -> None:
    assume(not os.path.exists(secret) and "***" not in secret and "$" not in secret)
    assume(secret.lower() not in "abcdefgh")
    by_name, by_variable = Redactor({}), Redactor({"DB_PASSWORD": secret})
    hidden = [
        str(by_name.settings({"my": {"password": secret}})["my"]),
        " ".join(by_name.command([f"my.password={secret}", "--password", secret])),
        *(by_variable.text(f"before {form} after") for form in (secret, quote(secret, safe=""), json.dumps(secret))),
        *(by_variable.text(f"{form}") for form in (f"x={secret}", f"[{secret}]", f"({secret})")),
    ]
    if not set(secret) & set("\\\"'"):
        hidden += [by_name.text(json.dumps({"password": secret})), by_name.text(f"password='{secret}'")]
    if not set(secret) & set("/@?#'\"<>"):
        hidden.append(by_name.text(f"https://user:{secret}@host"))
    for text in hidden:
        assert secret not in text


@given(
    st.lists(
        st.sampled_from(["loss", "t_850", "0.25", "epoch 3/20", "val/mse", "path=/a/b", "x: 1", "[3, 4]"]), max_size=20
    )
)
def test_text_without_secrets_is_unchanged(words: list[str]) -> None:
    assert Redactor({}).text("\n".join(words)) == "\n".join(words)


@given(content=st.binary(max_size=300))
def test_binary_files_are_copied_as_they_are(content: bytes) -> None:
    content = b"\x89PNG\0" + content
    assert b"".join(Redactor({"DB_PASSWORD": "password"}).pieces(BytesIO(content))) == content
