"""Every lesson by papermill at smoke size; the metrics that it recorded are asserted."""

import base64
import json

import pytest

from helpers.course.files import REPOSITORY
from helpers.course.lessons import find_lessons
from helpers.course.records import read_records
from helpers.course.run import main

LESSONS = [lesson.name for lesson in find_lessons(REPOSITORY)]


def check_start(metrics):
    assert metrics["dimensions"] == 384
    # What the lesson says of a model that was never told what "similar" means: its cosines lie close together.
    assert 0 < abs(metrics["paraphrase_cosine"] - metrics["unrelated_cosine"]) < 0.15
    assert metrics["continuation"].startswith("이 영화는 정말")


def check_data(metrics):
    assert metrics["triplets_fused"] == 650 and metrics["triplets_basic"] == metrics["triplets_domainwise"] == 4 * 650
    assert metrics["ours_positive_among_negatives"] == metrics["ours_negative_twice"] == metrics["leak_ours"] == 0
    assert metrics["bug_positive_among_negatives"] > 0.2 and metrics["bug_negative_twice"] > 0.2
    assert metrics["nfd_factor"] > 2 and metrics["pickle_refused"] is True and metrics["e5_rows"] > 1000


def check_simcse(metrics):
    assert metrics["reference_is_last"] is True and metrics["pairs_survived"] < 0.05
    assert metrics["cosine_of_views_without_dropout"] > 0.9999 > metrics["cosine_of_views_with_dropout"]
    assert metrics["uniformity_after"] < metrics["uniformity_before"] < 0
    for name in ("before", "after", "tfidf", "pairs", "both"):
        assert 0.05 < metrics[f"sts_spearman_{name}"] < 1


def check_pretraining(metrics):
    assert metrics["resumed_equal"] is True and metrics["lines"] > 1500
    assert metrics["bits_shipped"] < metrics["bits_toy"] and 2 < metrics["bits_ngram"] < 11
    assert metrics["bag_random"] < metrics["bag_characters"]
    assert 0.4 < metrics["pieces_per_syllable"] < 2


def check_tasks(metrics):
    assert metrics["tasks"] == 22 and metrics["wordings"] == 2200 and metrics["fewest_rows"] >= 30
    assert metrics["refused"] == metrics["leaked_rows"] == metrics["split_shared"] == 0 < metrics["split_shared_random"]
    assert metrics["leak_copied"] == metrics["leak_respaced"] == 1 and metrics["leak_inside"] > 0.8
    assert metrics["raw_respaced"] == 0 and metrics["rules_broken"] == 9 and metrics["reasons_when_hurt"] >= 6
    assert metrics["copied_with_bug"] == 1 > 2 * metrics["copied_ours"] and metrics["museum_spelling"] == 0
    assert metrics["train_rows"] + metrics["dev_rows"] == metrics["rows"] > 700


def check_triplets(metrics):
    assert metrics["stuck_triplet"] == pytest.approx(0.3)
    assert metrics["stuck_ranking"] == pytest.approx(0.693147, abs=1e-4)  # ln 2
    assert 0.02 < metrics["negatives_that_are_positives"] < 0.2 and metrics["ours_that_are_positives"] == 0
    assert metrics["examples"] == 8 and metrics["forgotten_moves"] > 0.001
    for name in ("bm25", "before", "triplet", "ranking", "matryoshka"):
        assert 0 < metrics[f"ndcg_{name}"] <= 1
    assert metrics["recipe_steps"] >= 1


def check_infonce(metrics):
    assert metrics["cache_error"] < 1e-10 < 0.01 < metrics["accumulation_error"]
    assert metrics["bug_cosine"] < 0.99 and abs(metrics["bug_loss"] - metrics["right_loss"]) > 0.01
    assert metrics["broadcast_loss"] > metrics["right_loss"] + 0.1
    assert metrics["broadcast_at_best"] == pytest.approx(2.079442, abs=1e-4)  # ln 8: the best it can be with eight rows
    assert metrics["positive_share"] > 0
    assert max(metrics["random_hardness"], metrics["category_hardness"]) < metrics["mined_hardness"]
    assert 0 <= metrics["masked_share"] < 0.2 and 0 <= metrics["likely_false_share"] < 1
    searched = ("base", "weighted", "bm25", "fused", "trained", "trained_without", "no_prefix")
    for name in (*searched, "batch_small", "accumulated", "cached"):
        assert 0.05 < metrics[f"ndcg_{name}"] < 1


def check_zero_shot(metrics):
    assert metrics["leaks"] == 0 and metrics["likelihood_difference"] < 1e-4 and metrics["choice_coverage"] == 1
    for task in ("kornli", "question_pair", "hate_speech", "nsmc"):
        for which in ("base", "tuned", "chooser"):
            named = {what: metrics[f"{task}_{which}_{what}"] for what in ("macro_f1", "low", "high", "coverage_free")}
            assert all(0 <= value <= 1 for value in named.values()) and named["low"] < named["high"]
        assert metrics[f"{task}_base_majority_f1"] < metrics[f"{task}_base_chance_f1"] < 0.51
        assert metrics[f"{task}_base_coverage_free"] < 0.1 and metrics[f"{task}_chooser_coverage_free"] > 0.9
    assert metrics["results"] == metrics["models"] * 4 * 6 == 72


def check_tuning(metrics):
    assert metrics["loss_after"] < metrics["loss_before"] and abs(metrics["loss_plain"] - metrics["loss_after"]) < 0.05
    assert metrics["trained_weights"] > 0 and metrics["best_step"] >= 1
    assert 0 < metrics["trained_share"] < 0.5 and metrics["typed_one_space_more"] != metrics["typed_as_trained"] > 0
    assert metrics["template_matches"] == metrics["eos_learned_with_the_bug"] == 0
    assert metrics["mb_4bit"] < 0.7 * metrics["mb_as_stored"] and metrics["resumed_same"] is True
    assert metrics["deep_after"] < metrics["deep_before"] and metrics["pad_as_they_come"] > 0
    # A short run at any rank stays below the deep model that was not trained; one that diverged does not.
    assert (
        max(metrics["loss_rank_low"], metrics["loss_rank_high"], metrics["loss_rank_high_rslora"])
        < metrics["deep_before"]
    )


def check_export(metrics):
    tolerance, base = metrics["tolerance"], metrics["base_difference"]
    for name in ("merged_16bit", "lora", "vllm"):
        assert 0 <= metrics[f"difference_{name}"] <= tolerance
    assert metrics["difference_lora"] < 1e-4 and base > 5 * tolerance and metrics["undone_difference"] > 0.5 * base
    assert metrics["refused"] == 4 and metrics["admitted"] == 3 and metrics["good_export_kept"] is True
    assert metrics["merge_equal"] is True and 0 < metrics["rounding_float16"] < metrics["rounding_bfloat16"]
    assert metrics["mixed_as_alone"] == 6 and metrics["seed_repeats"] is True and metrics["choice_coverage"] == 1
    assert metrics["endings"].split()[-1] == "length" and metrics["cached_cold"] == 0 < metrics["cached_warm"]
    assert metrics["left"] == 0 and metrics["tokens_per_second_vllm"] > 0


def check_preferences(metrics):
    assert metrics["first_loss"] == pytest.approx(0.693147, abs=5e-4) == metrics["at_start"]  # ln 2
    assert abs(metrics["accident"] - metrics["at_start"]) > 0.001 and metrics["judge_of_length"] == 0.5
    assert metrics["matched_pairs"] < metrics["train_pairs"] and metrics["test_pairs"] > 4 and metrics["steps"] >= 3
    assert 0 < metrics["adapter_mb"] < metrics["base_mb"] / 4 and metrics["backends_apart"] < 0.05
    for name in ("likelihood", "matched"):
        assert metrics[f"{name}_after_low"] <= metrics[f"{name}_after"] <= metrics[f"{name}_after_high"] <= 1
        assert metrics[f"{name}_after_low"] < metrics[f"{name}_after_high"]
    for when in ("before", "after", "held"):  # what counts as polite has ended
        assert 0 <= metrics[f"polite_{when}"] <= metrics[f"ends_{when}"]


def check_serving(metrics):
    assert metrics["answered"] == metrics["asked"] > 0 and metrics["mixed_up"] == 0 and metrics["freed_slots"] == 1
    assert metrics["engine_death_told"] is True and metrics["recovered_same"] is True
    assert metrics["processes_left"] == 0 and metrics["exit_code"] == 0
    assert 0 < metrics["latency_p50"] <= metrics["latency_p95"] and metrics["tokens_per_second_all"] > 0


def check_evaluation(metrics):
    assert metrics["ranx_gap"] < 1e-9 and metrics["mteb_gap"] < 1e-3
    assert metrics["rows_published"] == 15 and metrics["rows_measured"] >= 5
    assert metrics["difference_low"] <= metrics["difference"] <= metrics["difference_high"]
    for name in ("bm25", "base", "base_bm25", metrics["best"]):
        assert 0 <= metrics[f"ndcg1_{name}_hansol"] <= 1 and 0 < metrics[f"ndcg10_{name}_hansol"] <= 1
    assert metrics["ndcg10_bm25_hansol"] > 0.5
    assert metrics["fusion_weight_0_gap"] < 1e-12 and 0 <= metrics["fusion_weight"] <= 1
    assert metrics["late_ndcg10"] > metrics[f"ndcg10_{metrics['best']}_hansol"]  # a mean loses what its tokens know
    for kind in ("late_ranks", "late_scores"):
        assert metrics[f"{kind}_low"] <= metrics[f"{kind}_gain"] <= metrics[f"{kind}_high"]
        assert metrics[f"{kind}_ndcg10"] - metrics["ndcg10_bm25_hansol"] == pytest.approx(metrics[f"{kind}_gain"])


def check_scaling(metrics):
    assert max(metrics["error_gathered"], metrics["error_cached"], metrics["error_wrapped"]) < 1e-10
    assert min(metrics["error_alone"], metrics["error_cut"], metrics["error_everywhere"]) > 0.05
    assert metrics["loss_gap_cut"] < 1e-10 and metrics["cosine_cut"] < 0.99 and metrics["spread"] == 0
    assert metrics["length_everywhere"] == pytest.approx(1 / metrics["processes"])
    assert metrics["train_loss_gap"] < 1e-4 and metrics["weights_differ"] < 0.02 * metrics["weights_moved"]
    assert metrics["solar_gib"] == pytest.approx(19.99, abs=0.01) and metrics["table_rows"] == 24


def stored_tuning(metrics):
    assert metrics["loss_after"] < metrics["loss_before"] - 0.3
    assert metrics["ends_before"] < 0.3 and metrics["ends_after"] > 0.8 and metrics["in_form_after"] > 0.9
    assert metrics["right_unseen"] > metrics["most_unseen"] + 0.07  # what 210 questions are known to
    assert metrics["typed_one_space_more"] > metrics["typed_as_trained"] + 0.1
    assert metrics["ends_with_the_bug"] < 0.3 < 0.7 < metrics["ends_without"]
    assert metrics["pad_grouped"] < metrics["pad_as_they_come"] / 2
    assert metrics["deep_after"] < metrics["deep_before"] - 0.2 and metrics["mb_4bit"] < 0.6 * metrics["mb_as_stored"]


def stored_preferences(metrics):
    assert metrics["first_loss"] == pytest.approx(0.693147, abs=5e-4) and metrics["last_loss"] < 0.5
    assert abs(metrics["accident"] - metrics["at_start"]) > 0.02
    assert metrics["by_reward"] > 0.65 and metrics["reward_chosen"] > metrics["reward_rejected"] + 0.3
    assert metrics["margin_small_beta"] > metrics["margin_large_beta"] + 0.5 and metrics["backends_apart"] < 0.01


def stored_simcse(metrics):
    assert metrics["sts_spearman_after"] > metrics["sts_spearman_before"] + 0.01 and metrics["gain_high"] > 0.05


def stored_triplets(metrics):
    """Ranking loss and Matryoshka learn; the triplet loss does not. The recipe puts all Korean answers first."""
    assert min(metrics["ndcg_ranking"], metrics["ndcg_matryoshka"]) > metrics["ndcg_before"] + 0.01
    assert metrics["examples_korean"] == 4 and metrics["examples_after"] > metrics["examples_before"]


def stored_infonce(metrics):
    assert (
        metrics["ndcg_trained"] > metrics["ndcg_base"] + 0.08 and metrics["ndcg_fused"] > metrics["ndcg_trained"] + 0.05
    )


def stored_evaluation(metrics):
    assert metrics["late_scores_low"] > 0 and metrics["late_scores_ndcg10"] > metrics["late_ranks_ndcg10"]
    assert metrics["one_scores_ndcg10"] < metrics["both_scores_ndcg10"] < metrics["late_scores_ndcg10"]


def stored_export(metrics):
    assert (
        metrics["difference_merged_16bit"] < 0.1 and metrics["difference_vllm"] < 0.1 < 5 < metrics["base_difference"]
    )


def stored_zero_shot(metrics):
    assert metrics["nsmc_chooser_low"] > 0.6 and metrics["nsmc_chooser_coverage_free"] > 0.9


STORED = {
    "03_infonce_gradient_cache": stored_infonce,
    "05_embedding_evaluation": stored_evaluation,
    "07_instruction_lora_unsloth": stored_tuning,
    "08_preference_dpo": stored_preferences,
    "09_export_and_vllm": stored_export,
    "10_zero_shot": stored_zero_shot,
    "02_simcse_lora": stored_simcse,
    "04_triplet_and_embeddinggemma": stored_triplets,
}
"""What README says of a lesson rests on its stored outputs: the direction of each claim, with room for another run."""


@pytest.mark.parametrize("name", STORED)
def test_the_stored_outputs_bear_out_what_is_claimed_of_them(name):
    STORED[name](read_records(REPOSITORY / "notebooks" / f"{name}.ipynb"))


def test_the_figure_in_readme_is_the_one_that_lesson_02_stores():
    """After a new run of the lesson, store its figure of the test side as ``notebooks/figures/lesson02.png`` as well."""
    notebook = json.loads((REPOSITORY / "notebooks/02_simcse_lora.ipynb").read_text(encoding="utf-8"))
    [cell] = [cell for cell in notebook["cells"] if '"STS test"' in "".join(cell["source"])]
    [figure] = [output["data"]["image/png"] for output in cell["outputs"] if "image/png" in output.get("data", {})]
    assert base64.b64decode(figure) == (REPOSITORY / "notebooks/figures/lesson02.png").read_bytes()


CHECKS = {
    "A2_scaling_out": check_scaling,
    "07_instruction_lora_unsloth": check_tuning,
    "08_preference_dpo": check_preferences,
    "A1_pretraining_small_models": check_pretraining,
    "00_start_here": check_start,
    "01_embedding_data": check_data,
    "02_simcse_lora": check_simcse,
    "06_instruction_data": check_tasks,
    "03_infonce_gradient_cache": check_infonce,
    "04_triplet_and_embeddinggemma": check_triplets,
    "05_embedding_evaluation": check_evaluation,
    "09_export_and_vllm": check_export,
    "10_zero_shot": check_zero_shot,
    "11_serving": check_serving,
}


def test_no_lesson_holds_a_large_model_twice():
    """Under the GPU profiles ``settings.model`` has 7 B weights: the second load waits until the first was let go."""
    cells = read_notebook("08_preference_dpo")
    _, *between = "\n".join(cells).split("load_for_dpo(settings,")
    assert len(between) == 2 and "del model" in between[0] and "free_memory()" in between[0]
    cells = read_notebook("07_instruction_lora_unsloth")
    again = [source for source in cells if "load_language_model(settings.model" in source]
    before, after = again[0].split("load_language_model(settings.model")
    assert len(again) == 1 and "load_in_4bit=settings.load_in_4bit" in after
    assert "del model" in before and "free_memory()" in before


def read_notebook(name):
    notebook = json.loads((REPOSITORY / "notebooks" / f"{name}.ipynb").read_text(encoding="utf-8"))
    return ["".join(cell["source"]) for cell in notebook["cells"] if cell["cell_type"] == "code"]


def test_every_lesson_has_its_assertions():
    assert sorted(CHECKS) == LESSONS


@pytest.mark.notebook
@pytest.mark.parametrize("name", LESSONS)
def test_lesson_runs_and_its_metrics_hold(name, capsys):
    number = name.split("_")[0]
    status = main(["smoke", number, "--fresh"])
    assert status == 0, capsys.readouterr().err
    CHECKS[name](read_records(REPOSITORY / "outputs/smoke/notebooks" / f"{name}.ipynb"))
