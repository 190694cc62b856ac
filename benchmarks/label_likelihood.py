"""Rows per second of label likelihood: ours beside lm-evaluation-harness and the naive way, in one process.

    python benchmarks/label_likelihood.py                                        # our sample files
    python benchmarks/label_likelihood.py --data_dir ../shared/data/zero_shot --rows 1000

Same model, prompts, rows, label words and kernels (float32, one thread unless OMP_NUM_THREADS says otherwise). All contenders
start from token ids; the harness is asked through ``HFLM._loglikelihood_tokens``, which is what it spends its time in (its
request building, its second tokenisation and its metrics are left out, in its favour), at each of several batch
sizes, the best of which counts. They take turns, ``--repeats`` times, and the median counts. Time is CPU time of the
process, so that other work on the machine does not weigh on one side more than on the other. It needs ``pip install lm-eval``.
"""

import argparse
import logging
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch

from helpers.course.files import repository_path
from helpers.course.machine import detect_machine
from helpers.data.benchmarks import read_benchmark, stratified_sample
from helpers.instruct.models import load_language_model
from helpers.instruct.prompts import Prompt
from helpers.instruct.scoring.likelihood import label_likelihoods, naive_likelihoods
from helpers.instruct.scoring.questions import TASKS
from helpers.instruct.scoring.shared_beginnings import shared_prefix

MODEL = "sample_data/models/ko-mini-mistral"
SEED = 13


def timed(work: Callable[[], torch.Tensor]) -> tuple[float, torch.Tensor]:
    """Seconds of CPU time (on a GPU: of wall time) and what came out."""
    clock = time.perf_counter if torch.cuda.is_available() else time.process_time
    start = clock()
    result = work()
    return clock() - start, result


def main() -> None:
    """Measure all four sets and print a Markdown table."""
    told = arguments()
    torch.set_num_threads(told.threads)
    tokenizer, model = load_language_model(told.model)
    model, prompt = model.float(), Prompt.for_tokenizer(tokenizer)
    from lm_eval.models.huggingface import HFLM

    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    harness = HFLM(pretrained=model, tokenizer=tokenizer, batch_size=1)
    print(
        f"{detect_machine().cpu}, {told.threads} thread(s), {told.model}, float32, CPU seconds, median of {told.repeats}\n"
    )
    print(
        "| set | rows | tokens a row (of them shared) | naive | lm-eval (batch) | ours | ours / lm-eval | difference |"
    )
    print("|---|---|---|---|---|---|---|---|")
    total = dict.fromkeys(("rows", "lm-eval", "ours"), 0.0)
    for name, task in TASKS.items():
        table = stratified_sample(read_benchmark(name, repository_path(told.data_dir)), told.rows, SEED)
        prompts, labels = task.prompts(prompt, table), task.label_ids(prompt)
        requests = [(("", ""), ids, label) for ids in prompts for label in labels]

        def by_harness(size: int, requests: list = requests, width: int = len(labels)) -> torch.Tensor:
            harness.batch_size_per_gpu = size
            answers = harness._loglikelihood_tokens(requests, disable_tqdm=True)
            return torch.tensor([value for value, _ in answers]).view(-1, width)

        few = prompts[:: max(1, len(prompts) // 20)]
        naive, _ = timed(lambda few=few, labels=labels: naive_likelihoods(model, few, labels))
        label_likelihoods(model, prompts[:8], labels)  # the first call of each kernel is slow
        times: dict[str | int, list[float]] = {}
        difference = 0.0
        for _ in range(told.repeats):
            seconds, fast = timed(
                lambda p=prompts, q=labels: label_likelihoods(model, p, q, batch_tokens=told.batch_tokens)
            )
            times.setdefault("ours", []).append(seconds)
            for size in told.batch_sizes:
                seconds, theirs = timed(lambda size=size: by_harness(size))
                times.setdefault(size, []).append(seconds)
                difference = max(difference, (fast - theirs).abs().max().item())
        middle = {who: statistics.median(each) for who, each in times.items()}
        best = min(told.batch_sizes, key=lambda size: middle[size])
        total["rows"] += len(prompts)
        total["lm-eval"] += middle[best]
        total["ours"] += middle["ours"]
        mean = sum(map(len, prompts)) / len(prompts)
        print(
            f"| {name} | {len(prompts):,} | {mean:.0f} ({shared_prefix(prompts)}) | {len(few) / naive:.0f} | "
            f"{len(prompts) / middle[best]:.0f} ({best}) | {len(prompts) / middle['ours']:.0f} | "
            f"{middle[best] / middle['ours']:.1f} | {difference:.0e} |",
            flush=True,
        )
    print(
        f"| all | {total['rows']:,.0f} | | | {total['rows'] / total['lm-eval']:.0f} | "
        f"{total['rows'] / total['ours']:.0f} | {total['lm-eval'] / total['ours']:.1f} | |"
    )


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, prog="label_likelihood.py"
    )
    parser.add_argument("--model", default=MODEL)
    parser.add_argument("--data_dir", type=Path, default=Path("sample_data/zero_shot"))
    parser.add_argument("--rows", type=int, default=None, help="of each set; left out: all")
    parser.add_argument("--batch_sizes", type=int, nargs="+", default=[4, 16], help="of the harness; the best counts")
    parser.add_argument("--batch_tokens", type=int, default=1024, help="of ours")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    return parser.parse_args()


if __name__ == "__main__":
    main()
