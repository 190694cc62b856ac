"""Pretraining: tokenizers that know every syllable, sides that never mix, and a run that survives SIGKILL bit for bit."""

import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from helpers.course.errors import InputError
from helpers.course.files import REPOSITORY

MODELS = REPOSITORY / "sample_data/models"
sys.path.insert(0, str(MODELS))
import pretrain  # noqa: E402 (a script beside the weights, not a package)
from corpus import HOLD_OUT_SAMPLE, is_held_out, key_of, read_sample  # noqa: E402

TOY = {"vocab_size": 2048, "hidden": 64, "layers": 2, "heads": 4, "intermediate": 128, "batch_tokens": 1024}
OVERRIDES = [f"{kind}.{key}={value}" for kind in ("encoder", "lm") for key, value in TOY.items()]
OVERRIDES += ["lm.context=256", "lm.kv_heads=2", "lm.tokens=14000", "encoder.tokens=14000"]


def settings_of(run_dir, *more):
    chosen = pretrain.load_settings(
        REPOSITORY / "config/pretraining.yaml", [*OVERRIDES, f"run_dir={run_dir}", *more], "cpu"
    )
    return chosen | {"data_dir": REPOSITORY / "sample_data"}


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pretraining")
    pretrain.prepare(settings_of(folder))
    return folder


@pytest.mark.parametrize("kind", ["encoder", "lm"])
@given(text=st.text(st.characters(min_codepoint=0xAC00, max_codepoint=0xD7A3), min_size=1, max_size=12))
def test_no_syllable_is_unknown(run_dir, kind, text):
    tokenizer = pretrain.Tokenizer.from_file(str(run_dir / f"{kind}.json"))
    ids = tokenizer.encode(text, add_special_tokens=False).ids
    assert pretrain.UNK not in ids and tokenizer.decode(ids) == text


def test_equal_letters_fall_on_one_side():
    train, held_out, _ = read_sample(REPOSITORY / "sample_data")
    assert not {key_of(line.text) for line in train} & {key_of(line.text) for line in held_out} and len(held_out) > 50
    written_otherwise = [" " + line.text.replace(" ", "") + "!" for line in held_out]
    assert all(is_held_out(text, HOLD_OUT_SAMPLE) for text in written_otherwise)
    assert (
        is_held_out("오늘은 공기가 좋다")
        and is_held_out(" 오늘은 공기가 좋다! ")
        and not is_held_out("오늘은 날씨가 좋다")
    )


@pytest.mark.parametrize(
    "override, says",
    [
        ("encoder.sink=8", r"no such setting\n.*key encoder.sink\n.*batch_tokens"),
        ("sink=8", r"no such setting\n.*key sink\n.*checkpoint_seconds"),
        ("seed.deep=8", "no such setting"),
        ("lm=3", "allowed: a section"),
        ("lm.tokens=many", r"key lm.tokens\n.*given:   many\n.*allowed: a whole number"),
        ("lm.tokens=1.5", "a whole number"),
        ("lm.tokens=", "a whole number"),
        ("lm.lr_muon=nan", "a number"),
    ],
)
def test_a_setting_that_cannot_be_is_named(tmp_path, override, says):
    with pytest.raises(InputError, match=says):
        settings_of(tmp_path, override)


def test_settings_have_the_types_of_the_file(tmp_path):
    settings = settings_of(tmp_path, "lm.tokens=1e6", "lm.lr_muon=1e-3", "seed=5")
    assert (settings["lm"]["tokens"], settings["lm"]["lr_muon"], settings["seed"]) == (1_000_000, 0.001, 5)
    assert type(settings["lm"]["tokens"]) is int


def test_a_profile_is_taken_or_refused():
    recipe = REPOSITORY / "config/pretraining.yaml"
    large = pretrain.load_settings(recipe, [], "a100")
    assert (large["dtype"], large["lm"]["batch_tokens"], large["lm"]["hidden"]) == ("bfloat16", 131_072, 256)
    assert pretrain.load_settings(recipe, ["dtype=float32"], "a100")["dtype"] == "float32"
    with pytest.raises(InputError, match=r"no such profile[\s\S]*a100, cpu, t4"):
        pretrain.load_settings(recipe, [], "a-100")


def test_a_vocabulary_smaller_than_the_alphabet_is_refused(tmp_path):
    with pytest.raises(SystemExit, match=r"encoder.vocab_size: 300 is too small for this text; bytes, special tokens"):
        pretrain.prepare(settings_of(tmp_path, "encoder.vocab_size=300"))


def test_pieces_with_shared_characters_start_close(run_dir):
    tokenizer = pretrain.Tokenizer.from_file(str(run_dir / "encoder.json"))
    ids, offsets, _ = pretrain.read_arrays(run_dir, "encoder")
    pieces = [tokenizer.id_to_token(i) for i in range(tokenizer.get_vocab_size())]
    vectors, share = pretrain.word_vectors(pieces, ids, offsets, 64)
    assert np.allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-4) and share.sum() == pytest.approx(1)
    words = [i for i, piece in enumerate(pieces) if len(piece) == 3 and piece[0] == "▁"]
    near = [vectors[i] @ vectors[j] for i in words for j in words if i < j and pieces[i][1] == pieces[j][1]]
    far = [
        vectors[i] @ vectors[j] for i in words for j in words if i < j and not set(pieces[i][1:]) & set(pieces[j][1:])
    ]
    assert np.mean(near) > np.mean(far) + 0.1


def weights(folder, kind):
    return torch.load(folder / f"{kind}.pt", weights_only=True)["model"]


def command(folder, kind):
    arguments = [argument for override in OVERRIDES for argument in ("--set", override)]
    arguments += ["--set", f"run_dir={folder}", "--set", "checkpoint_seconds=0"]
    return [sys.executable, str(MODELS / "pretrain.py"), kind, *arguments]


@pytest.mark.parametrize("kind", ["encoder", "lm"])
def test_a_killed_run_ends_with_the_same_weights(run_dir, tmp_path, kind):
    for name in ("whole", "killed"):
        folder = tmp_path / name
        folder.mkdir()
        for path in run_dir.iterdir():
            os.link(path, folder / path.name)
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    subprocess.run(command(tmp_path / "whole", kind), check=True, env=environment, capture_output=True)
    log = tmp_path / "killed" / f"{kind}.log.jsonl"
    process = subprocess.Popen(command(tmp_path / "killed", kind), env=environment, stderr=subprocess.DEVNULL)
    while not log.exists() or len(log.read_text().splitlines()) < 4:
        assert process.poll() is None, "the run ended before it could be killed"
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.wait()
    stopped = torch.load(tmp_path / "killed" / f"{kind}.pt", weights_only=True)
    assert stopped["tokens"] < 14_000
    subprocess.run(command(tmp_path / "killed", kind), check=True, env=environment, capture_output=True)
    whole, killed = (weights(tmp_path / name, kind) for name in ("whole", "killed"))
    assert any(not torch.equal(whole[name], stopped["model"][name]) for name in whole)  # there was something left to do
    assert all(torch.equal(whole[name], killed[name]) for name in whole)
    steps = [row["step"] for row in map(pretrain.json.loads, log.read_text().splitlines())]
    assert steps == list(range(1, len(steps) + 1))


def test_muon_moves_every_direction_alike():
    gradient = torch.randn(32, 64, generator=torch.Generator().manual_seed(0)) @ torch.diag(torch.logspace(0, -2, 64))
    weight = torch.nn.Parameter(torch.zeros(32, 64))
    weight.grad = gradient
    pretrain.Muon([weight], lr=1.0, momentum=0.0, weight_decay=0.0).step()
    values = torch.linalg.svdvals(weight.data) / (0.2 * 64**0.5)
    assert torch.linalg.svdvals(gradient).max() > 20 * torch.linalg.svdvals(gradient).min()
    assert values.min() > 0.6 and values.max() < 1.3


def test_packed_documents_end_with_eos_and_neighbours_are_joined():
    offsets = np.array([0, 5, 9, 20, 24])
    sources = np.array(["petitions", "petitions", "nsmc", "nsmc"])
    assert pretrain.documents(offsets, sources).tolist() == [0, 2, 3, 4]
