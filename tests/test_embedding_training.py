"""SimCSE training on the repository's own encoder: adapters move, the best state is kept, a killed run resumes."""

import copy
import math
from itertools import islice

import numpy as np
import pytest
import torch

from helpers.course.errors import InputError
from helpers.course.files import read_table, sample_data
from helpers.course.machine import set_seed
from helpers.course.training_faults import Diverged, LoraDidNotMove
from helpers.data.pairs import Pairs
from helpers.embedding import search as search_module
from helpers.embedding import training
from helpers.embedding.contrastive import ContrastiveRows
from helpers.embedding.encoder import Encoder
from helpers.embedding.encoding.adapters import LoraWatch
from helpers.embedding.evaluation import alignment_uniformity, cosines, sts_spearman
from helpers.embedding.infonce.settings import InfoNCESettings
from helpers.embedding.infonce.trainer import train_contrastive
from helpers.embedding.losses import alignment, cosent_loss, info_nce, uniformity
from helpers.embedding.schedule import rate_share
from helpers.embedding.search import best_values, search
from helpers.embedding.simcse_settings import SimCSESettings
from helpers.embedding.training import History, batches, known_positives, pair_loss, train, validation_loss, views

SENTENCES = [
    "아침에 비가 내렸다.", "점심은 국수를 먹었다.", "기차가 늦게 도착했다.", "새 책을 한 권 샀다.", "친구와 공원을 걸었다.",
    "회의가 길어졌다.", "고양이가 창가에서 잔다.", "바다에 노을이 진다.", "커피가 식어 버렸다.", "시험이 모두 끝났다.",
]  # fmt: skip
STS = Pairs(
    SENTENCES[:4], [SENTENCES[0], "국수로 점심을 때웠다.", SENTENCES[5], SENTENCES[6]], None, [5.0, 4.0, 1.0, 0.0]
)


@pytest.fixture
def settings(tmp_path):
    return SimCSESettings.load(output_dir=tmp_path, batch_size=4, epochs=2, eval_every=2, max_length=16, seed=3)


def encoder_of(settings, lora=True):
    set_seed(0)
    encoder = Encoder.load(settings.model, max_length=settings.max_length)
    if lora:
        encoder.add_lora(r=4, alpha=8, dropout=0.1)
    return encoder


def lora_b(encoder):
    return {n: p.detach().clone() for n, p in encoder.named_parameters() if ".lora_B." in n}


def test_no_step_of_a_run_stands_still():
    """transformers gives the first of three steps a rate of 0."""
    assert [rate_share(step, 3, 0.1) for step in (1, 2, 3)] == pytest.approx([1, 2 / 2.7, 1 / 2.7])
    shares = [rate_share(step, 100, 0.1) for step in range(1, 101)]
    assert min(shares) > 0 and shares[:10] == pytest.approx([0.1 * step for step in range(1, 11)])
    assert shares[10:] == sorted(shares[10:], reverse=True) and rate_share(1, 1, 0.9) > 0


def test_every_lora_b_moves_in_the_first_step(settings):
    encoder = encoder_of(settings)
    assert all(p.abs().sum() == 0 for p in lora_b(encoder).values())
    train(encoder, [views(SENTENCES)], views(SENTENCES[:4]), STS, settings.changed(max_steps=2))
    assert all(p.abs().sum() > 0 for p in lora_b(encoder).values())


def test_an_adapter_that_does_not_move_is_named():
    encoder = encoder_of(SimCSESettings.load())
    watch = LoraWatch(encoder.model)
    with pytest.raises(LoraDidNotMove, match="lora_B"):
        watch.check(encoder.model, 0.1)


def learned(encoder):
    return {n: p.detach().clone() for n, p in encoder.named_parameters() if p.requires_grad}


def stopping_after(steps):
    def numbered(*told, own=training._numbered):
        yield from islice(own(*told), steps)
        raise KeyboardInterrupt

    return numbered


@pytest.mark.parametrize("piece_weights", [False, True])
def test_a_killed_run_ends_at_the_weights_of_one_that_was_not(piece_weights, settings, tmp_path, monkeypatch):
    settings = settings.changed(piece_weights=piece_weights)
    whole = encoder_of(settings)
    train(whole, [views(SENTENCES)], views(SENTENCES[:4]), STS, settings.changed(output_dir=tmp_path / "whole"))
    killed, calls = encoder_of(settings), []

    def dies(*arguments):
        calls.append(1)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return pair_loss(*arguments)

    monkeypatch.setattr(training, "pair_loss", dies)
    own = settings.changed(output_dir=tmp_path / "killed")
    with pytest.raises(KeyboardInterrupt):
        train(killed, [views(SENTENCES)], views(SENTENCES[:4]), STS, own)
    monkeypatch.undo()
    resumed = encoder_of(settings)
    train(resumed, [views(SENTENCES)], views(SENTENCES[:4]), STS, own)
    before, after = learned(whole), learned(resumed)
    assert any(value.abs().sum() > 0 for value in lora_b(resumed).values())
    assert ("piece_weights.scaled_log" in after) is piece_weights and before.keys() == after.keys()
    for name, value in before.items():
        torch.testing.assert_close(after[name], value, rtol=0, atol=0)


def test_the_encoder_ends_at_its_best_step_not_its_last(settings, monkeypatch):
    scores = iter([0.9, 0.1, 0.2, 0.1, 0.1, 0.1])
    monkeypatch.setattr(training, "sts_spearman", lambda *_: next(scores))
    seen = []
    monkeypatch.setattr(training, "validation_loss", lambda encoder, *_: seen.append(lora_b(encoder)) or 0.0)
    encoder = encoder_of(settings)
    history = train(encoder, [views(SENTENCES)], views(SENTENCES[:4]), STS, settings)
    assert history.best_step == 2
    final = lora_b(encoder)
    assert all(torch.equal(final[name], value) for name, value in seen[0].items())
    assert not all(torch.equal(final[name], value) for name, value in seen[-1].items())


def test_a_pair_stays_a_pair_through_shuffling():
    pairs = Pairs([f"a{i}" for i in range(50)], [f"b{i}" for i in range(50)])
    seen = [
        (a, b) for batch in batches([pairs], 8, seed=1, epoch=0) for a, b in zip(batch.first, batch.second, strict=True)
    ]
    assert sorted(seen) == sorted(zip(pairs.first, pairs.second, strict=True))
    assert seen != list(zip(pairs.first, pairs.second, strict=True))
    again = [batch.first for batch in batches([pairs], 8, seed=1, epoch=0)]
    other = [batch.first for batch in batches([pairs], 8, seed=1, epoch=1)]
    assert again == [batch.first for batch in batches([pairs], 8, seed=1, epoch=0)] and again != other


def test_loss_and_temperature_and_duplicates(settings):
    encoder = encoder_of(settings).eval()
    pairs = Pairs(SENTENCES[:3], SENTENCES[3:6])
    assert pair_loss(encoder, pairs, 0.05).item() != pytest.approx(pair_loss(encoder, pairs, 0.2).item(), rel=0.01)
    doubled = Pairs([SENTENCES[0]] * 2, [SENTENCES[0]] * 2)
    assert pair_loss(encoder, doubled, 0.05).item() == pytest.approx(0, abs=1e-6)  # the twin is no negative


def test_no_positive_of_an_anchor_is_its_negative(settings, monkeypatch):
    a, b, p, q, n, m = SENTENCES[:6]
    encoder = encoder_of(settings).eval()

    def expected(pairs, hidden):
        vectors = [encoder.embed(encoder.tokenize(side)) for side in (pairs.first, pairs.second, pairs.negatives)]
        mask = torch.zeros(2, 4, dtype=torch.bool)
        for row, column in hidden:
            mask[row, column] = True
        return info_nce(*vectors, 0.05, mask=mask).item()

    two = Pairs([a, a], [p, q], [n, m])  # one anchor, two answers, as lesson 01 makes them
    assert expected(two, [(0, 1), (1, 0)]) != pytest.approx(expected(two, []), rel=1e-3)
    assert pair_loss(encoder, two, 0.05).item() == pytest.approx(expected(two, [(0, 1), (1, 0)]), rel=1e-4)
    other = Pairs([a, b], [p, q], [n, p])  # q answers a in a row of another batch, and p both of them
    known = known_positives([other, Pairs([a, b], [q, p]), Pairs([b], [n], None, [0.0])])  # n: a score is no yes
    assert known == {a: {p, q}, b: {p, q}}
    told = pair_loss(encoder, other, 0.05, known=known).item()
    assert told == pytest.approx(expected(other, [(0, 1), (0, 3), (1, 0), (1, 3)]), rel=1e-4)
    seen = []
    monkeypatch.setattr(training, "pair_loss", lambda *told: seen.append(told[4]) or pair_loss(*told))
    train(encoder_of(settings), [other], views(SENTENCES[:4]), STS, settings.changed(max_steps=1, logger="none"))
    assert seen == [known_positives([other])]


def test_validation_without_dropout_would_say_nothing(settings):
    encoder = encoder_of(settings, lora=False)
    pairs = views(SENTENCES)
    with_dropout = validation_loss(encoder, pairs, 10, 1.0, seed=1)
    for module in encoder.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    for layer in encoder.model.encoder.layer:
        layer.attention.self.dropout.p = 0.0
    assert validation_loss(encoder, pairs, 10, 1.0, seed=1) < with_dropout
    assert validation_loss(encoder, pairs, 10, 1.0, seed=1) == validation_loss(encoder, pairs, 10, 1.0, seed=2)


def test_saved_model_loads_with_sentence_transformers(settings, tmp_path):
    from sentence_transformers import SentenceTransformer

    encoder = encoder_of(settings)
    train(encoder, [views(SENTENCES)], views(SENTENCES[:4]), STS, settings.changed(max_steps=2))
    folder = encoder.save(tmp_path / "model")
    theirs = SentenceTransformer(str(folder), device="cpu").encode(SENTENCES, normalize_embeddings=True)
    np.testing.assert_allclose(theirs, encoder.encode(SENTENCES), atol=1e-5)


def test_an_adapter_goes_on_where_it_stopped(settings, tmp_path):
    encoder = encoder_of(settings)
    train(encoder, [views(SENTENCES)], views(SENTENCES[:4]), STS, settings.changed(max_steps=2))
    encoder.save_adapter(tmp_path / "adapter")
    again = encoder_of(settings, lora=False)
    before = again.encode(SENTENCES)
    again.load_adapter(tmp_path / "adapter", trainable=True)
    np.testing.assert_allclose(again.encode(SENTENCES), encoder.encode(SENTENCES), atol=1e-5)
    assert np.abs(again.encode(SENTENCES) - before).max() > 1e-6
    assert any(p.requires_grad for p in again.parameters())


def test_an_adapter_folder_as_the_model_to_train_is_refused(settings, tmp_path):
    folder = encoder_of(settings).save_adapter(tmp_path / "adapter")
    own = settings.changed(piece_weights=True)  # they alone would be trained
    with pytest.raises(InputError, match=r"(?s)all weights of this model are frozen.*merged"):
        train(Encoder.load(folder), [views(SENTENCES)], views(SENTENCES[:4]), STS, own)
    rows, contrastive = (
        ContrastiveRows.checked(SENTENCES[:4], SENTENCES[4:8]),
        InfoNCESettings.load(output_dir=tmp_path),
    )
    with pytest.raises(InputError, match="all weights of this model are frozen"):
        train_contrastive(Encoder.load(folder), rows, contrastive)


def test_an_adapter_of_another_base_is_refused(settings, tmp_path):
    encoder = encoder_of(settings)
    encoder.save_adapter(tmp_path / "adapter")
    other = encoder_of(settings, lora=False)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter += 0.01
    with pytest.raises(InputError, match="base"):
        other.load_adapter(tmp_path / "adapter", trainable=True)


def test_scores_against_scipy_and_known_order(settings):
    encoder = encoder_of(settings, lora=False)
    assert sts_spearman(encoder, STS.first, STS.second, cosines(encoder, STS.first, STS.second).tolist()) == 1.0
    with pytest.raises(InputError, match="differ"):
        sts_spearman(encoder, ["가", "나"], ["다"], [1.0, 2.0])
    near, spread = alignment_uniformity(encoder, STS.first, STS.second, STS.scores)
    assert near >= 0 and spread < 0


def test_alignment_is_of_the_close_pairs_and_uniformity_of_every_sentence(settings):
    encoder, sts = encoder_of(settings, lora=False), STS.take([3, 2, 1, 0])
    near, spread = alignment_uniformity(encoder, sts.first, sts.second, sts.scores)  # scored 0, 1, 4 and 5
    first, second = (torch.from_numpy(encoder.encode(side[2:])) for side in (sts.first, sts.second))
    every = torch.from_numpy(encoder.encode(sorted({*sts.first, *sts.second})))
    assert near == pytest.approx(alignment(first, second).item(), rel=1e-4)
    assert spread == pytest.approx(uniformity(every).item(), rel=1e-4)
    with pytest.raises(InputError, match="no pair is scored as close"):
        alignment_uniformity(encoder, sts.first, sts.second, [0.0, 1.0, 3.9, 2.0])


def test_spearman_asks_for_the_order_alone(settings):
    encoder = encoder_of(settings, lora=False)
    steep = np.exp(20 * cosines(encoder, STS.first, STS.second).astype(float))
    assert sts_spearman(encoder, STS.first, STS.second, steep.tolist()) == pytest.approx(1.0)
    assert np.corrcoef(cosines(encoder, STS.first, STS.second), steep)[0, 1] < 0.99


def test_search_runs_what_it_suggests_and_leaves_a_table(settings, monkeypatch):
    base = encoder_of(settings)
    ran = []
    monkeypatch.setattr(search_module, "train", lambda *told: ran.append(told[-1]) or train(*told))
    own = settings.changed(max_steps=1, trials=3)
    table = search(lambda: copy.deepcopy(base), [views(SENTENCES)], views(SENTENCES[:4]), STS, own)
    assert table["lr"].nunique() == 3 and table["spearman"].is_monotonic_decreasing
    in_order = table.sort_values("trial")
    for name in ("lr", "loss_temperature", "batch_size"):
        assert in_order[name].tolist() == [getattr(each, name) for each in ran]
    assert best_values(table) == {name: table[name][0] for name in ("lr", "loss_temperature", "batch_size")}
    assert type(best_values(table)["batch_size"]) is int and settings.changed(**best_values(table))
    kept = read_table(settings.output_dir / "trials.csv")
    assert kept["spearman"].astype(float).tolist() == pytest.approx(table["spearman"].tolist())
    assert not list(settings.output_dir.glob("**/*.safetensors")) and not list(settings.output_dir.glob("**/*.pt"))


def test_all_trials_of_a_search_read_as_many_pairs(settings, monkeypatch):
    ran = []
    monkeypatch.setattr(search_module, "train", lambda *told: ran.append(told[-1]) or History(best_spearman=0.0))
    search(lambda: None, [], STS, STS, settings.changed(batch_size=64, max_steps=2, eval_every=1, trials=12))
    assert {each.batch_size for each in ran} == {16, 32, 64}
    assert all(each.max_steps * each.batch_size == 128 and each.eval_every == each.max_steps for each in ran)


def test_training_touches_nothing_in_its_folder_but_its_own(settings):
    settings.output_dir.joinpath("mine.txt").write_text("keep")
    encoder = encoder_of(settings)
    train(encoder, [views(SENTENCES)], views(SENTENCES[:4]), STS, settings.changed(max_steps=1, logger="none"))
    assert [path.name for path in settings.output_dir.iterdir()] == ["mine.txt"]


def test_a_checkpoint_of_another_run_is_not_gone_on_from(settings, monkeypatch, capsys):
    def stopped_run(**changes):
        calls = []

        def dies(*arguments):
            calls.append(1)
            if len(calls) > 2:
                raise KeyboardInterrupt
            return pair_loss(*arguments)

        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(training, "pair_loss", dies)
            train(encoder_of(settings), [views(SENTENCES)], views(SENTENCES[:4]), STS, settings.changed(**changes))

    stopped_run(lr=0.01)
    history = train(encoder_of(settings), [views(SENTENCES)], views(SENTENCES[:4]), STS, settings)
    told = capsys.readouterr().out
    assert len(history.losses) == 6 and "goes on" not in told and "of a run with other lr moved to" in told
    assert (settings.output_dir / "old-1/checkpoint-2/state.pt").is_file()
    stopped_run()
    other_base = encoder_of(settings)
    next(p for p in other_base.parameters() if not p.requires_grad).data += 0.1
    train(other_base, [views(SENTENCES)], views(SENTENCES[:4]), STS, settings)
    assert "with other start moved to" in capsys.readouterr().out
    train(encoder_of(settings), [views(SENTENCES)], views(SENTENCES[:4]), STS, settings.changed(logger="none"))
    assert "goes on after step 2 of 6" in capsys.readouterr().out
    assert not list(settings.output_dir.glob("checkpoint-*"))


@pytest.mark.parametrize("lora", [False, True])
def test_a_start_that_was_trained_anew_is_another_run(lora, settings, tmp_path, monkeypatch, capsys):
    """All weights or an adapter that is gone on from: its folder has the same name, and other weights than before."""

    def started(factor):
        encoder = encoder_of(settings, lora)
        for weight in encoder.parameters():
            weight.data *= factor if weight.requires_grad else 1
        return encoder

    own = settings.changed(use_lora=lora, logger="none", max_steps=3)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(training, "_numbered", stopping_after(2))
        train(started(1.0), [views(SENTENCES)], views(SENTENCES[:4]), STS, own)
    train(started(1.01), [views(SENTENCES)], views(SENTENCES[:4]), STS, own)
    assert "of a run with other start moved to" in capsys.readouterr().out


def test_a_run_stopped_on_a_gpu_goes_on_where_there_is_none(settings, monkeypatch, capsys):
    settings = settings.changed(logger="none", max_steps=3)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(torch.serialization, "location_tag", lambda storage: "cuda:0")
        patch.setattr(training, "_numbered", stopping_after(2))
        train(encoder_of(settings), [views(SENTENCES)], views(SENTENCES[:4]), STS, settings)
    train(encoder_of(settings), [views(SENTENCES)], views(SENTENCES[:4]), STS, settings)
    assert "goes on after step 2 of 3" in capsys.readouterr().out


def test_scored_pairs_are_ranked_at_their_own_temperature(settings):
    encoder = encoder_of(settings, lora=False).eval()
    first, second = (encoder.embed(encoder.tokenize(side)) for side in (STS.first, STS.second))
    for temperature in (0.05, 0.2):
        expected = cosent_loss(first, second, torch.tensor(STS.scores), temperature).item()
        assert pair_loss(encoder, STS, 0.01, temperature).item() == pytest.approx(expected, rel=1e-4)
    with_negatives = Pairs(STS.first, STS.second, SENTENCES[5:9], STS.scores)
    assert pair_loss(encoder, with_negatives, 0.01, 0.2).item() == pytest.approx(
        pair_loss(encoder, STS, 0.01, 0.2).item(), rel=1e-4
    )


def test_scores_teach_the_order_of_the_pairs(settings):
    encoder = encoder_of(settings)
    first, second = SENTENCES[:4], SENTENCES[4:8]
    reverse = (-cosines(encoder, first, second)).argsort().argsort().tolist()  # the nearest pair gets the lowest score
    pairs = Pairs(first, second, None, [float(rank) for rank in reverse])
    assert sts_spearman(encoder, first, second, pairs.scores) == pytest.approx(-1)
    own = settings.changed(data_type=1, epochs=20, lr=0.01, logger="none", eval_every=10)
    assert train(encoder, [pairs], views(SENTENCES[:4]), pairs, own).best_spearman > 0.5


def test_a_file_that_data_dir_lacks_is_taken_from_the_sample_data_and_said(settings, tmp_path, capsys):
    own = settings.changed(data_dir=tmp_path)
    assert (
        own.data("sts/sts.tsv") == sample_data("sts", "sts.tsv")
        and "sample_data/sts/sts.tsv is taken" in capsys.readouterr().out
    )
    (tmp_path / "mine.tsv").write_text("")
    assert own.data("mine.tsv") == tmp_path / "mine.tsv" and own.data("gone.tsv") == tmp_path / "gone.tsv"
    assert capsys.readouterr().out == ""


def test_training_that_diverged_says_so(settings, monkeypatch):
    monkeypatch.setattr(training, "pair_loss", lambda encoder, *told: pair_loss(encoder, *told) * math.nan)
    with pytest.raises(Diverged, match=r"(?s)loss is not a finite.*step 1.*nan.*lower the learning rate \(it is 0.5\)"):
        train(encoder_of(settings), [views(SENTENCES)], views(SENTENCES[:4]), STS, settings.changed(lr=0.5))
    table = search(
        lambda: encoder_of(settings), [views(SENTENCES)], views(SENTENCES[:4]), STS, settings.changed(trials=1)
    )
    assert table["spearman"].isna().tolist() == [True]
    monkeypatch.undo()
    monkeypatch.setattr(training, "sts_spearman", lambda *_: math.nan)
    with pytest.raises(Diverged, match=r"Spearman on the dev side is not a finite"):
        train(encoder_of(settings), [views(SENTENCES)], views(SENTENCES[:4]), STS, settings)


def test_scores_that_rank_nothing_are_refused(settings):
    same = Pairs(STS.first, STS.second, None, [3.0] * 4)
    with pytest.raises(InputError, match="all the same"):
        train(encoder_of(settings), [same], views(SENTENCES[:4]), STS, settings)


def test_pooling_is_a_setting_and_the_real_model_is_pooled_as_its_authors_do(settings):
    assert settings.encoder().pooling == "mean" and settings.changed(pooling="cls").encoder().pooling == "cls"
    assert {SimCSESettings.load(profile=profile).pooling for profile in ("t4", "a100")} == {"cls"}
