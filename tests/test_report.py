"""The page of a run: what is on it, and that nothing in a run becomes markup, a request or a folder's name."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from gptcli.config import ExpectConfig, RunProfile
from gptcli.documents import document, to_json
from gptcli.errors import RunError
from gptcli.figures import HOSTILE as CONTROLS
from gptcli.figures import visible
from gptcli.files import write_json
from gptcli.metrics import write_event
from gptcli.profiles import write_profile
from gptcli.report import SHOWN_SAMPLES, make_report
from gptcli.report_page import POLICY, inert
from gptcli.restore import load_model
from gptcli.runs import RunDir
from tests.cli.conftest import run_cli, working_in
from tests.hostile_run import ATTACKS, HOSTILE, make_honest_run, make_hostile_run
from tests.training import NewRun, finish, interrupt

PAGE = {
    *("html", "head", "meta", "title", "link", "style", "body", "header", "footer", "h1", "h2", "h3", "p", "dl", "div"),
    *("dt", "dd", "figure", "figcaption", "pre", "b", "ul", "li", "code", "details", "summary"),
}
PICTURE = {"svg", "defs", "g", "path", "clippath", "rect", "use", "text", "style", "tspan", "lineargradient", "stop"}
EMPTY = {"meta", "link"}


class Elements(HTMLParser):
    """All elements of a page, and its text."""

    def __init__(self, page: str) -> None:
        super().__init__(convert_charrefs=True)
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.open: list[str] = []
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Note an element."""
        self.found.append((tag, dict(attrs)))
        if tag not in EMPTY:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Note an element that has no content."""
        self.found.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        """See that elements are closed in order."""
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        """Note a text."""
        self.texts.append(data)

    def handle_comment(self, data: str) -> None:
        """See that the only comments are those of the picture."""
        assert "owned" not in data
        assert "CDATA" not in data

    @property
    def text(self) -> str:
        """All text of the page."""
        return "".join(self.texts)


def check_inert(page: str) -> Elements:
    """See that a page holds elements of its own alone, and asks for nothing."""
    elements = Elements(page)
    assert elements.open == []
    assert {tag for tag, _ in elements.found} <= PAGE | PICTURE
    for tag, attributes in elements.found:
        for name, value in attributes.items():
            assert not name.startswith("on"), (tag, name)
            if name in ("href", "src", "xlink:href", "srcset", "action", "data"):
                assert value is not None
                assert value.startswith(("#", "data:")), (tag, name, value)
            assert "owned" not in (value or "")
            for target in re.findall(r"url\(([^)]*)\)", value or ""):
                assert target.strip("'\"").startswith("#"), (tag, name, value)
    assert not CONTROLS.search(page)
    policy = next(
        each["content"] for tag, each in elements.found if each.get("http-equiv") == "Content-Security-Policy"
    )
    assert policy == POLICY
    return elements


@pytest.fixture(scope="module")
def honest(tmp_path_factory: pytest.TempPathFactory) -> RunDir:
    from gptcli.config import ModelConfig, SampleConfig, TrainConfig

    profile = RunProfile(
        model=ModelConfig(n_layer=1, n_head=2, n_embd=16, block_size=16),
        train=TrainConfig(
            batch_size=4, max_steps=20, warmup_steps=2, eval_interval=5, log_interval=5, sample_interval=2, device="cpu"
        ),
        sample=SampleConfig(prompt="One ", max_new_tokens=8),
    )
    return make_honest_run(tmp_path_factory.mktemp("honest"), profile)


def test_page_says_what_was_trained_on_what_how_it_went_and_how_to_do_it_again(honest: RunDir) -> None:
    elements = check_inert(make_report(honest))
    text = elements.text
    best = honest.profile().sample.prompt
    for told in (
        "A GPT of ",
        "trained from scratch on ",
        "tokens of texts",
        "Its best val_loss is ",
        "20 of 20",
        "step 0: random weights",
        "best, step ",
        "How to do it again",
        "gptcli fetch texts --name stories",
        "gptcli train stories --profile profile.yaml --run r",
        "n_layer: 1",
        "licence",
        best,
    ):
        assert told in text, told
    assert [tag for tag, _ in elements.found].count("svg") == 1
    assert [attributes.get("class") for tag, attributes in elements.found if tag == "pre"].count("sample") >= 3


def test_profile_on_the_page_is_one_that_can_be_trained_with(honest: RunDir, tmp_path: Path) -> None:
    page = Elements(make_report(honest, draws=False))
    profile = next(text for text in page.texts if "n_layer: " in text)
    (tmp_path / "profile.yaml").write_text(profile, "utf-8")
    with working_in(honest.path.parent.parent):
        folder = honest.path.parent.parent
        done = run_cli(folder, "train", "stories", "--profile", str(tmp_path / "profile.yaml"), "--run", "again")
        assert done.code == 0, done.stderr
    again = RunDir(honest.path.with_name("again"))
    assert again.profile().model == honest.profile().model
    assert again.profile().train == honest.profile().train


def test_many_samples_are_thinned_out_with_the_first_and_the_last(honest: RunDir) -> None:
    page = make_report(honest, draws=False)
    steps = [int(step) for step in re.findall(r"<h3>step (\d+)</h3>", page)]
    assert (len(steps), steps[0], steps[-1]) == (SHOWN_SAMPLES, 2, 20)
    assert steps == sorted(set(steps))


def test_equal_runs_give_equal_pages(honest: RunDir) -> None:
    assert make_report(honest) == make_report(honest)


def test_no_folder_of_this_machine_is_on_the_page(honest: RunDir, tmp_path: Path) -> None:
    folder = honest.path.parent.parent
    with working_in(tmp_path):
        assert str(folder) not in make_report(honest)
    with working_in(folder):
        done = run_cli(
            folder,
            *("finetune", "stories", "--from", str(honest.path.resolve()), "--run", "tuned"),
            *("--set", "max_steps=2", "--device", "cpu"),
        )
        assert done.code == 0, done.stderr
        page = make_report(RunDir(honest.path.with_name("tuned")))
    for part in (str(folder), str(folder.resolve()), folder.parent.name, str(Path.home()) + "/", str(tmp_path)):
        assert part not in page, part
    assert "finetuned from r" in page


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory, honest: RunDir) -> RunDir:
    return make_hostile_run(tmp_path_factory.mktemp("hostile"), honest.profile())


@pytest.mark.parametrize("draws", [True, False])
def test_nothing_that_a_run_holds_becomes_markup(hostile: RunDir, draws: bool) -> None:
    notices = list[str]()
    with working_in(hostile.path.parent.parent):
        elements = check_inert(make_report(hostile, notices.append, draws=draws))
    text = elements.text
    assert text.count('<script>document.title="owned"</script>') >= 8  # wherever it was put, and as what it is
    for attack in ATTACKS:
        assert " ".join(visible(attack).split()) in " ".join(text.split()), attack
    assert not any(attributes.get("class") == "owned" for _, attributes in elements.found)


@pytest.mark.parametrize("attack", ATTACKS)
def test_text_is_shown_as_it_is_whatever_it_is(attack: str) -> None:
    (text,) = Elements(f"<pre>{inert(attack)}</pre>").texts
    assert text == visible(attack)


def test_run_with_a_hostile_name_has_a_page(honest: RunDir) -> None:
    run = RunDir(honest.path.with_name("<script>alert(1)<!--$x$\u202e"))
    honest.path.rename(run.path)
    try:
        elements = check_inert(make_report(run, draws=False))
    finally:
        run.path.rename(honest.path)
    assert elements.text.count("<script>alert(1)<!--$x$<U+202E>") >= 2


def test_run_without_a_loss_has_no_page_yet(new_run: NewRun, tmp_path: Path) -> None:
    new_run("new")
    done = run_cli(tmp_path, "runs", "report", "new")
    assert done.code == 1
    assert "There is no loss to draw yet" in done.stderr
    assert not (tmp_path / "new.html").exists()


def test_page_of_a_run_that_was_stopped_or_failed_says_so(new_run: NewRun) -> None:
    run = new_run("r", "optimizer=adamw", "warmup_steps=0", "schedule=constant", "max_steps=40", "log_interval=1")
    interrupt(run, 8)
    assert "It was stopped and can go on." in make_report(run, draws=False)
    bad = new_run("bad", "optimizer=adamw", "warmup_steps=0", "max_steps=40", "learning_rate=1e37", "log_interval=1")
    with pytest.raises(RunError):
        finish(bad)
    page = make_report(bad, draws=False)
    assert "It ended in an error." in page or "It has not been evaluated yet." in page


def test_page_without_its_corpus_says_what_is_left(honest: RunDir, tmp_path: Path) -> None:
    corpora = honest.path.parent.parent / "corpora"
    corpora.rename(tmp_path / "gone")
    try:
        page = Elements(make_report(honest, draws=False)).text
    finally:
        (tmp_path / "gone").rename(corpora)
    assert "gptcli fetch SOURCE --name stories" in page
    assert "not known" in page


def fetched_page(run: RunDir, **source: object) -> str:
    """Return the page of a run whose corpus has these values in ``source.json``."""
    path = run.path.parent.parent / "corpora" / "stories" / "source.json"
    before = path.read_bytes()
    write_json(path, {**json.loads(before), **source})
    try:
        return make_report(run, draws=False)
    finally:
        path.write_bytes(before)


def fetched_by(run: RunDir, **source: object) -> str:
    """Return the fetch command on the page of a run whose corpus has these values in ``source.json``."""
    page = Elements(fetched_page(run, **source)).text
    return next(line for line in page.splitlines() if "gptcli fetch" in line)


@pytest.mark.parametrize(
    ("source", "command"),
    [
        (
            {"command": "gptcli fetch /home/me/texts --name old --drop-lines '^Chapter ' --encoding cp1252"},
            "gptcli fetch texts --name stories --drop-lines '^Chapter ' --encoding cp1252",
        ),
        (
            {
                "kind": "files",
                "source": "/home/me/a b.txt, /home/me/c.txt",
                "command": "gptcli fetch '/home/me/a b.txt' /home/me/c.txt --name stories",
            },
            "gptcli fetch 'a b.txt' c.txt --name stories",
        ),
        (
            {
                "kind": "files",
                "source": "/home/me/*.txt",
                "command": "gptcli fetch /home/me/a.txt /home/me/c.txt --name stories",
            },
            "gptcli fetch '*.txt' --name stories",
        ),
        (
            {
                "kind": "audio",
                "source": "talks",
                "command": "gptcli fetch talks --name stories --whisper /home/me/models/small",
            },
            "gptcli fetch talks --name stories --whisper small",
        ),
        (
            {
                "kind": "blog",
                "source": "https://x.example/",
                "command": "gptcli fetch https://x.example/ --name stories",
            },
            "gptcli fetch https://x.example/ --name stories",
        ),
        ({"command": "rm -rf / ; gptcli fetch x --name y"}, "gptcli fetch texts --name stories"),
        ({"command": "gptcli fetch 'x --name y"}, "gptcli fetch texts --name stories"),
        ({"command": None}, "gptcli fetch texts --name stories"),
    ],
    ids=["options", "files", "pattern", "model", "address", "another", "damaged", "none"],
)
def test_text_is_fetched_again_as_it_was_without_folders(
    honest: RunDir, source: dict[str, object], command: str
) -> None:
    assert fetched_by(honest, **source) == command


def test_text_that_is_told_of_is_that_of_the_checkpoint_that_was_loaded(new_run: NewRun, tmp_path: Path) -> None:
    run = new_run("r", "max_steps=12", "eval_interval=4", "save_interval=4", "sample_interval=0")
    finish(run)
    step = load_model(run)[2]
    with run.metrics_path.open("ab") as file:  # an evaluation whose checkpoint is not there yet
        file.write(write_event({"event": "evaluated", "step": 99, "val_loss": 0.5}))
    page = make_report(run)
    assert f"<h3>best, step {step}</h3>" in page
    assert "best, step 99" not in page


def test_page_says_that_a_promise_is_not_kept_yet_where_the_run_has_not_ended(new_run: NewRun) -> None:
    run = new_run("r", "max_steps=40", "log_interval=1")
    interrupt(run, 8)
    write_profile(run.profile_path, run.profile().model_copy(update={"expects": ExpectConfig(val_loss=0.01)}))
    assert "val_loss 0.01: not yet, the run is not complete" in make_report(run, draws=False)
    finish(run)
    assert "val_loss 0.01: not reached, missed by " in make_report(run, draws=False)


def test_run_without_a_loss_does_not_let_the_model_write_first(new_run: NewRun) -> None:
    run, notices = new_run("r"), list[str]()
    run.tokenizer_path.write_text("damaged", "utf-8")  # whoever writes trips over it
    with pytest.raises(RunError, match="no loss to draw yet"):
        make_report(run, notices.append)
    assert notices == []


def test_place_that_cannot_be_written_is_found_before_the_model_writes(honest: RunDir) -> None:
    for command in ("report", "plot", "export-metrics"):
        suffix = {"report": "html", "plot": "png"}.get(command, "csv")
        place = f"{honest.metrics_path}/no/x.{suffix}"  # below a file
        done = run_cli(honest.path.parent.parent, "runs", command, "r", "-o", place)
        assert done.code == 1
        assert f"{place} cannot be written: " in done.stderr
        assert "Choose another file with --output." in done.stderr
        assert "Letting the model write" not in done.stderr


def test_report_is_written_where_it_is_wanted_and_nothing_else_is(honest: RunDir, tmp_path: Path) -> None:
    folder, place = honest.path.parent.parent, tmp_path / "page.html"
    done = run_cli(folder, "runs", "report", "r", "-o", str(place), "--no-draw", "--json")
    assert done.json() == {"run": "r", "path": str(place)}
    assert place.read_text("utf-8").startswith("<!doctype html>")
    assert run_cli(folder, "runs", "report", "r", "-o", "page.pdf").code == 2
    assert run_cli(folder, "runs", "report", "r", "-o", str(tmp_path / "no" / "such" / "folder.html")).code in (0, 1)
    (tmp_path / "taken.html").mkdir()
    done = run_cli(folder, "runs", "report", "r", "--no-draw", "-o", str(tmp_path / "taken.html"))
    assert done.code == 1
    assert "taken.html" in done.stderr
    assert HOSTILE not in done.stderr


def with_titles(run: RunDir, **source: object) -> list[str]:
    """Let the documents of a run's corpus have titles, and return the page's texts without ``--titles`` and with it."""
    corpus = run.path.parent.parent / "corpora" / "stories"
    before = {name: (corpus / name).read_bytes() for name in ("source.json", "documents.jsonl")}
    item = document("Text.", title="My secret diary", author="Me")
    (corpus / "documents.jsonl").write_text(f"{json.dumps(to_json(item))}\n", "utf-8")
    write_json(corpus / "source.json", {**json.loads(before["source.json"]), **source})
    try:
        return [Elements(make_report(run, draws=False, titles=titles)).text for titles in (False, True)]
    finally:
        for name, content in before.items():
            (corpus / name).write_bytes(content)


def test_titles_of_ones_own_files_are_shown_only_where_that_is_asked_for(honest: RunDir) -> None:
    hidden, titled = with_titles(honest)
    assert "secret diary" not in hidden
    assert "My secret diary, Me" in titled


def test_titles_of_a_public_text_are_shown(honest: RunDir) -> None:
    command = "gptcli fetch https://x.example/ --name stories"
    without, _ = with_titles(honest, kind="blog", source="https://x.example/", command=command)
    assert "My secret diary, Me" in without


def test_report_says_that_it_leaves_titles_out(honest: RunDir, tmp_path: Path) -> None:
    folder = honest.path.parent.parent
    done = run_cli(folder, "runs", "report", "r", "--no-draw", "-o", str(tmp_path / "page.html"))
    assert "--titles shows them" in done.stderr
    done = run_cli(folder, "runs", "report", "r", "--no-draw", "--titles", "-o", str(tmp_path / "page.html"))
    assert "--titles" not in done.stderr


def test_text_that_was_cut_off_says_so(honest: RunDir) -> None:
    best = make_report(honest).partition("<h3>best, step ")[2].partition("</pre>")[0]
    assert best.endswith("…")


def test_what_was_left_out_of_the_text_stands_in_one_row(honest: RunDir) -> None:
    page = fetched_page(honest, dropped={"empty files": 2, "too short": 1})
    assert page.count("<dt>left out</dt>") == 1
    assert "2 empty files; 1 too short" in page


def test_unit_of_the_loss_is_explained(honest: RunDir) -> None:
    assert "a nat is 1.44 bits" in make_report(honest, draws=False)
