"""The page, in a browser without a network: what it shows, and what a person can do with it. Nothing from disk becomes markup."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect
from reports import METHODS, answered, diverged, finished, save, windows

from sparsity.report.build import build
from sparsity.report.page import embedded

EVIL = "<script>document.title='taken'</script><img src=x onerror=\"document.title='taken'\">"


@pytest.fixture
def page(page: Page) -> Iterator[Page]:
    """Without a network, and with nothing to complain of on the console."""
    complaints: list[str] = []
    page.on("console", lambda said: complaints.append(said.text) if said.type in ("error", "warning") else None)
    page.context.set_offline(True)
    yield page
    assert complaints == []


def study(folder: Path) -> None:
    """Two methods, two correctors, two sparsities, some seeds; and one run of another protocol."""
    i = 0
    for sparsity in (0.5, 0.6):
        for m, method in enumerate(("wanda", "magnitude")):
            for c, corrector in enumerate(("none", "optimal")):
                for seed in range(3 if corrector == "none" else 1):
                    i += 1
                    perplexity = 50 + 10 * m - 5 * c + 100 * (sparsity - 0.5) + 0.1 * seed
                    nll = windows(0.5 + 0.2 * m - 0.1 * c + sparsity, draw=i)
                    finished(
                        folder / str(i),
                        perplexity,
                        method=method,
                        corrector=corrector,
                        sparsity=sparsity,
                        seed=seed,
                        nll=nll,
                    )
    finished(folder / "other", 99.0, evaluation={"perplexity": {"seqlen": 64, "windows": 24}})
    (finished(folder / "half") / "result.json").unlink()


def opened(page: Page, folder: Path, make: bool = True) -> Page:
    if make:
        build([folder], folder)
    page.goto((folder / "report.html").absolute().as_uri())
    return page


def column(page: Page, heading: str) -> list[str]:
    headings = page.locator("#runs table thead th").all_inner_texts()
    return page.locator(f"#runs table tbody tr td:nth-child({headings.index(heading) + 1})").all_inner_texts()


@pytest.mark.browser
def test_the_runs_are_sorted_by_their_headings(page, tmp_path):
    study(tmp_path)
    opened(page, tmp_path)
    assert len(column(page, "method")) == 16
    heading = page.locator("#runs th", has_text="ppl pruned")
    expect(heading).to_have_attribute("aria-sort", "none")
    heading.get_by_role("button").click()
    expect(heading).to_have_attribute("aria-sort", "ascending")
    rising = [float(cell) for cell in column(page, "ppl pruned")]
    assert rising == sorted(rising)
    assert rising[0] < rising[-1]
    heading.get_by_role("button").focus()
    page.keyboard.press("Enter")
    expect(heading).to_have_attribute("aria-sort", "descending")
    assert [float(cell) for cell in column(page, "ppl pruned")] == rising[::-1]


@pytest.mark.browser
def test_the_runs_are_filtered_by_words_and_by_values(page, tmp_path):
    study(tmp_path)
    opened(page, tmp_path)
    page.locator("#search").fill("wanda optimal")
    expect(page.locator("#count")).to_have_text("2 of 16 runs")
    page.locator("#search").fill("")
    page.locator("#runs tbody").get_by_role("button", name="magnitude").first.click()
    assert set(column(page, "method")) == {"magnitude"}
    page.locator("#runs tbody").get_by_role("button", name="0.6").first.click()
    assert set(column(page, "sparsity")) == {"0.6"}
    expect(page.locator("#count")).to_have_text("4 of 16 runs")
    page.get_by_role("button", name="Remove the filter method = magnitude").click()
    assert set(column(page, "method")) == {"wanda", "magnitude"}


@pytest.mark.browser
def test_the_best_of_a_column_is_the_one_that_its_measure_says(page, tmp_path):
    """The smallest perplexity and the largest accuracy of the pruned runs, and nothing where nobody knows."""
    for i, (method, accuracy) in enumerate((("wanda", 0.5), ("magnitude", 0.75), ("hybrid", 0.25))):
        lm_eval = {"dense": {"quiz": {"acc": 0.875}}, "pruned": {"quiz": {"acc": accuracy, "acc_stderr": 0.0625}}}
        evaluation = {
            "perplexity": {"seqlen": 512, "windows": 24},
            "lm_eval": lm_eval,
            "mine": {"score": 1.0 + i},
        }
        finished(tmp_path / method, 50.0 + i, method=method, evaluation=evaluation)
    opened(page, tmp_path)
    headings = page.locator("#runs table thead th").all_inner_texts()

    def best(heading: str) -> list[str]:
        place = headings.index(heading) + 1
        return page.locator(f"#runs table tbody tr td:nth-child({place}) .best").all_inner_texts()

    assert best("ppl pruned") == ["50.00"]
    assert best("quiz acc") == ["75.00 %"]
    assert best("mine score") == []
    assert best("ppl dense") == []  # all the same
    assert sorted(column(page, "quiz acc")) == ["25.00 % ± 6.25 %", "50.00 % ± 6.25 %", "75.00 % ± 6.25 %"]
    assert (
        page.locator("#runs th button[title='evaluation.lm_eval.pruned.quiz.acc: the larger the better']").count() == 1
    )


@pytest.mark.browser
def test_the_time_bars_show_every_stage_of_the_results_in_its_order(page, tmp_path):
    finished(tmp_path / "old", seconds={"load": 1.0, "calibrate": 2.0, "prune": 3.0, "evaluate": 4.0})
    stages = {
        "load": 1.0,
        "allocate": 9.0,
        "calibrate": 2.0,
        "prune": 3.0,
        "refine": 5.0,
        "polish": 6.0,
        "evaluate": 4.0,
    }
    finished(tmp_path / "new", method="magnitude", seconds=stages)
    opened(page, tmp_path)
    assert page.locator("#cost .legend span").all_inner_texts() == [*stages]
    bars = page.locator("#cost svg rect")
    widths = [float(bar.get_attribute("width")) for bar in bars.all()]
    time, memory = widths[: len(stages)], widths[len(stages)]  # of the slower run, which stands first
    assert [round(width / time[0], 6) for width in time] == [*stages.values()]
    assert memory > 0


@pytest.mark.browser
def test_two_runs_are_chosen_and_compared(page, tmp_path):
    study(tmp_path)
    opened(page, tmp_path)
    for name in ("wanda", "magnitude"):
        page.get_by_role("checkbox", name=f"Compare {name} · none · sparsity 0.5 · seed 0", exact=True).check()
    two = page.locator("#two")
    expect(two.locator(".verdict")).to_contain_text("Taken alone, a (wanda · none · sparsity 0.5 · seed 0) is better.")
    estimate = two.locator(".verdict .best").inner_text()
    two.get_by_label("a", exact=True).select_option(label="magnitude · none · sparsity 0.5 · seed 0")
    two.get_by_label("b", exact=True).select_option(label="wanda · none · sparsity 0.5 · seed 0")
    expect(two.locator(".verdict")).to_contain_text("Taken alone, b (wanda · none · sparsity 0.5 · seed 0) is better.")
    assert estimate.startswith("+")
    assert two.locator(".verdict .best").inner_text().startswith("−")  # the same difference from the other side
    assert two.locator("svg rect").count() == 24


@pytest.mark.browser
def test_the_divergence_of_two_runs_is_told_in_nats(page, tmp_path):
    for i, method in enumerate(("wanda", "magnitude")):
        folder = finished(tmp_path / method, 50.0 + i, method=method, nll=windows(0.5 + i))
        diverged(folder, [0.25 * (i + 1)] * 24)
    opened(page, tmp_path)
    verdict = page.locator("#two .verdict", has_text="divergence from the dense model per token, 24 windows")
    expect(verdict.locator(".best")).to_have_text("+0.2500 nats")
    expect(verdict).to_contain_text("a (wanda) is better")
    page.locator("#pairs").get_by_label("measure").select_option(label="divergence")
    expect(page.locator("#pairs tbody")).to_contain_text("+0.2500 nats")


@pytest.mark.browser
def test_two_protocols_are_never_compared(page, tmp_path):
    study(tmp_path)
    opened(page, tmp_path)
    expect(page.locator("#protocol")).to_contain_text("different protocols")
    two = page.locator("#two")
    stranger = two.locator("optgroup[label='Protocol B'] option").last.get_attribute("value")
    two.get_by_label("b", exact=True).select_option(value=stranger)
    expect(two.locator("#refusal")).to_contain_text("window length: 512 tokens and 64 tokens")
    assert two.locator(".verdict").count() == 0
    page.get_by_role("button", name="B: 1 run").click()
    assert len(page.locator("#runs tbody tr").all()) == 1
    expect(page.locator("#runs")).to_contain_text("99.00")


@pytest.mark.browser
def test_all_pairs_and_the_seeds(page, tmp_path):
    study(tmp_path)
    opened(page, tmp_path)
    pairs = page.locator("#pairs")
    assert pairs.locator("tbody tr").count() == 100  # of 120: the rest on request
    pairs.get_by_role("button", name="Show more rows").click()
    assert pairs.locator("tbody tr").count() == 120
    pairs.get_by_role("button", name="view").last.click()
    chosen = [page.locator("#two").get_by_label(name, exact=True).input_value() for name in "ab"]
    assert len(set(chosen)) == 2
    seeds = page.locator("#seeds")
    expect(seeds).to_contain_text("50.10")
    assert seeds.locator("#methods-table tbody tr").count() == 2  # wanda and magnitude at either sparsity
    expect(page.locator("#matrix")).to_contain_text("± 0.10, 3 seeds")


@pytest.mark.browser
def test_the_options_of_a_corrector_are_columns_of_the_matrix(page, tmp_path):
    """Or every row would have a single cell."""
    for i, (method, select) in enumerate((m, s) for m in ("wanda", "magnitude") for s in (None, "top", "weakest")):
        corrector = {"_target_": "x.hessian", "select": select} if select else {"_target_": "x.none"}
        finished(
            tmp_path / str(i),
            50.0 + i,
            method=method,
            corrector="hessian" if select else "none",
            words=[f"corrector.select={select}"] if select else [],
            config={"corrector": corrector},
        )
    matrix = opened(page, tmp_path).locator("#matrix")
    assert matrix.locator("thead th").all_inner_texts() == [
        "method", "none", "hessian · select top", "hessian · select weakest"
    ]  # fmt: skip
    assert [text.split()[0] for text in matrix.locator("tbody td").all_inner_texts()] == [
        "50.00", "51.00", "52.00", "53.00", "54.00", "55.00"
    ]  # fmt: skip


@pytest.mark.browser
def test_one_run_is_opened_from_the_table_and_from_the_chart(page, tmp_path):
    study(tmp_path)
    opened(page, tmp_path)
    page.get_by_role("button", name="Open magnitude · optimal · sparsity 0.6 · seed 0").click()
    expect(page.locator("#run")).to_contain_text("python run.py method=magnitude corrector=optimal sparsity=0.6 seed=0")
    assert page.locator("#layers svg rect").count() == 9
    page.locator("#layers svg rect").first.hover()
    expect(page.locator("#tip")).to_contain_text("block 0, self_attn.q_proj")
    mark = page.locator("#front svg .mark[aria-label^='wanda · none · sparsity 0.6 · seed 1']")
    mark.focus()
    page.keyboard.press("Enter")
    expect(page.locator("#run")).to_contain_text("method=wanda corrector=none sparsity=0.6 seed=1")
    expect(page.locator("#texts")).to_contain_text("has no generated text")


@pytest.mark.browser
def test_light_and_dark(page, tmp_path):
    finished(tmp_path)
    opened(page, tmp_path)

    def paper() -> str:
        return page.evaluate("getComputedStyle(document.body).backgroundColor")

    light = paper()
    page.locator("#theme").click()
    dark = paper()
    assert dark != light
    page.locator("#theme").click()
    assert paper() == light
    page.emulate_media(color_scheme="dark")
    page.reload()
    assert paper() == dark
    expect(page.locator("#theme")).to_have_text("Light")


@pytest.mark.browser
@pytest.mark.parametrize("width", [390, 1024])
def test_the_page_is_no_wider_than_the_window(page, tmp_path, width):
    study(tmp_path)
    page.set_viewport_size({"width": width, "height": 800})
    opened(page, tmp_path)
    assert page.evaluate("document.documentElement.scrollWidth") <= width


@pytest.mark.browser
def test_the_largest_perplexity_is_not_cut_off_at_the_edge(page, tmp_path):
    for i, perplexity in enumerate((17.0, 2_058_266.0, 3e11)):
        finished(tmp_path / str(i), perplexity, method="magnitude", sparsity=0.3 + 0.1 * i)
    opened(page, tmp_path)
    labels = page.locator("svg", has_text="sparsity found").locator("text")
    cut = "texts => texts.map(text => text.getBBox().x).filter(x => x < 0)"
    assert labels.count() > 5
    assert labels.evaluate_all(cut) == []


@pytest.mark.browser
def test_one_run_alone_makes_a_page(page, tmp_path):
    folder = tmp_path / "x"
    folder.mkdir()
    (folder / "result.json").write_text(json.dumps({"perplexity": {"pruned": 50.0}}))
    opened(page, tmp_path)
    expect(page.locator("#runs")).to_contain_text("50.00")
    expect(page.locator("#layers")).to_contain_text("no layers.csv")
    assert page.locator("#matrix").is_hidden()


@pytest.mark.browser
def test_nothing_from_disk_becomes_markup(page, tmp_path):
    shared = {"span": 50, "tokens": 100, "shared": 7, "share": 0.07}
    for i in range(2):
        folder = finished(
            tmp_path / f"{i}</script>" if i else tmp_path / "0",
            50.0 + i,
            name="<script>alert(1)</script>",
            command=EVIL,
            words=[f"method.own={EVIL}{i}"],
            config={"method": METHODS["wanda"] | {"own": f"{EVIL}{i}"}},
            model={"name": EVIL, "dtype": "float32"},
            leakage=shared,
            composition={EVIL: EVIL},
            evaluation={"perplexity": {"seqlen": 512, "windows": 24}, EVIL: {EVIL: 1.0}},
            nll=windows(0.5, draw=i),
        )
        answered(folder, [1, 0] * 10, task=EVIL)
        save(folder, "generations", [{"prompt": EVIL, "dense": EVIL, "pruned": "\u2028</script>" + EVIL}])
        (folder / "layers.csv").write_text(
            f'block,name,relative_error\n0,"m.0.{EVIL.replace(chr(34), "")}",0.1\n1,m.1.x,0.2\n'
        )
    broken = tmp_path / f"{EVIL.replace('/', '')}"
    (finished(broken) / "result.json").write_text(EVIL)
    opened(page, tmp_path)
    page.wait_for_timeout(100)
    assert page.title() == "<script>alert(1)</script>"  # as text, and not "taken"
    assert page.locator("img").count() == 0
    assert page.locator("script").count() == 2
    expect(page.locator("#texts")).to_contain_text(EVIL)
    expect(page.locator("#leakage")).to_contain_text("7 of 100 tokens")
    expect(page.locator("#problems")).to_contain_text("result.json is damaged")


def test_json_cannot_close_its_element():
    content = {"a": "</script><!--", "b": "\u2028 & \u2029 é"}
    text = embedded(content)
    assert not set(text) & set("<>&\u2028\u2029")
    assert json.loads(text) == content


def test_the_page_asks_for_nothing_from_elsewhere(tmp_path):
    study(tmp_path)
    build([tmp_path], tmp_path)
    html = (tmp_path / "report.html").read_text()
    assert set(re.findall(r"https?://[^\s\"']+", html)) == {"http://www.w3.org/2000/svg"}  # a name, not an address
    assert not re.findall(r"\b(?:src|href)=\"(?!data:,|#)", html)
    assert "default-src 'none'" in html
