from __future__ import annotations

import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gptcli.config import RunProfile
from gptcli.errors import ProfileError
from gptcli.profile_docs import schema_text
from gptcli.profiles import (
    build_profile,
    copy_profile,
    dump_profile,
    find_profile,
    given_keys,
    header_of,
    load_profile,
    override_path,
    profile_differences,
    profile_mistakes,
    profiles,
)
from gptcli.strict_yaml import load_yaml

BROKEN = """\
description: a profile with everything wrong
model:
  n_layr: 4
  dropout: 1.5
train:
  max_iters: 5
  device: gpu
  n_layer: 3
  compile: maybe
sampel:
  top_k: 3
"""


def test_all_mistakes_are_reported_at_once_with_file_line_and_nearest_key(tmp_path: Path) -> None:
    path = tmp_path / "broken.yaml"
    path.write_text(BROKEN, "utf-8")
    with pytest.raises(ProfileError) as caught:
        load_profile(path, ["seed=3", "n_layer=abc", "train.sed=1", "batch_size"])
    problems = "\n".join(caught.value.problems)
    for fragment in (
        f"{path}:3: unknown key 'n_layr' in model; the nearest is 'n_layer'",
        f"{path}:4: model.dropout: expected less than 1, found 1.5",
        f"{path}:6: 'max_iters' is nanoGPT's name; here it is train.max_steps",
        f"{path}:7: train.device: device 'gpu' is unknown; choose auto, cpu, cuda, cuda:N or mps",
        f"{path}:8: unknown key 'n_layer' in train; it belongs to model.n_layer",
        f"{path}:9: train.compile: expected auto, true or false, found 'maybe'",
        f"{path}:10: unknown key 'sampel'; the nearest is 'sample'",
        "--set seed=3: 'seed' stands in several sections: write train.seed or sample.seed",
        "--set n_layer=abc: model.n_layer: expected a valid integer, found 'abc'",
        "--set train.sed=1: unknown key 'train.sed'; the nearest is 'train.seed'",
        "--set batch_size: write it as --set key=value",
    ):
        assert fragment in problems
    assert len(caught.value.problems) == 11


def test_a_syntax_error_names_the_line(tmp_path: Path) -> None:
    path = tmp_path / "twice.yaml"
    path.write_text("model:\n  n_layer: 2\n  n_layer: 3\n", "utf-8")
    with pytest.raises(ProfileError, match=r"twice\.yaml:3: the key 'n_layer' is given twice"):
        load_profile(path)


@pytest.mark.parametrize("key", ["max_iters", "warmup_iters", "gradient_accumulation_steps", "eval_iters", "out_dir"])
def test_a_key_of_nanogpt_is_answered_with_ours(key: str) -> None:
    with pytest.raises(ProfileError, match="is nanoGPT's name; here it is"):
        build_profile({}, [f"{key}=5"])


def test_set_reaches_a_leaf_by_path_or_bare_name() -> None:
    profile = build_profile({"model": {"n_layer": 2}}, ["n_layer=6", "train.learning_rate=1e-4", "stop=THE END"])
    assert profile.model.n_layer == 6
    assert profile.train.learning_rate == 1e-4
    assert profile.sample.stop == ("THE END",)
    assert override_path("vocab_size") == ("model", "vocab_size")


@pytest.mark.parametrize(
    "text", ["The ", " a", "ROMEO:", "No", "# Title", "null", "1e3", "[a, b]", "'quoted'", "", "*x"]
)
def test_set_takes_a_text_letter_by_letter(text: str) -> None:
    assert build_profile({}, [f"prompt={text}"]).sample.prompt == text
    assert build_profile({}, [f"expects.machine={text}"]).expects.machine == text


def test_set_leaves_a_text_that_may_be_missing_out() -> None:
    assert build_profile({"data": {"corpus": "a"}}, ["corpus=null"]).data.corpus is None
    assert build_profile({"data": {"corpus": "a"}}, ["corpus="]).data.corpus is None
    assert build_profile({}, ["corpus=No"]).data.corpus == "No"


@pytest.mark.parametrize(
    ("text", "stop"),
    [
        ("THE END: ", ("THE END: ",)),
        ("No", ("No",)),
        ("# ", ("# ",)),
        ("[", ("[",)),
        ("[a, 'No ']", ("a", "No ")),
        ("[]", ()),
    ],
)
def test_set_takes_one_stop_text_or_a_list_of_them(text: str, stop: tuple[str, ...]) -> None:
    assert build_profile({}, [f"stop={text}"]).sample.stop == stop


def test_set_refuses_a_text_that_no_file_can_hold() -> None:
    with pytest.raises(ProfileError, match="the value is not UTF-8 text"):
        build_profile({}, ["prompt=caf\udce9"])


@pytest.mark.parametrize("content", [None, b"model: {n_layer: \xe9}", b"model: [", b"model: {n_layr: 1}"])
def test_every_error_of_a_file_has_a_command_to_type_next(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "wrong.yaml"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ProfileError) as caught:
        load_profile(path)
    assert "gptcli profiles " in caught.value.hint


@pytest.mark.parametrize("key", ["seed", "n_layr"])
def test_every_error_of_a_key_has_a_command_to_type_next(key: str) -> None:
    with pytest.raises(ProfileError) as caught:
        override_path(key)
    assert "gptcli profiles " in caught.value.hint


def test_an_override_goes_over_the_file_even_where_the_file_is_wrong(tmp_path: Path) -> None:
    path = tmp_path / "p.yaml"
    path.write_text("model:\n  n_layer: many\n", "utf-8")
    assert load_profile(path, ["n_layer=1"]).model.n_layer == 1


@pytest.mark.parametrize(
    ("overrides", "blamed"),
    [
        (["n_embd=65536"], ["--set n_embd=65536: model: n_embd 65536 is not divisible by n_head 3"]),
        (["n_head=7", "dropout=0.1"], ["--set n_head=7: model: n_embd 96 is not divisible by n_head 7"]),
        (["head_dim=5"], ["--set head_dim=5: model: rotary positions need an even head width"]),
        (["n_embd=64", "n_head=7"], ["--set n_embd=64, --set n_head=7: model: n_embd 64 is not"]),
        (["short_block_size=7"], ["--set short_block_size=7: short_block_size 7 does not divide"]),
        (["n_embd=6553500"], ["--set n_embd=6553500: model.n_embd: "]),
    ],
)
def test_keys_that_do_not_go_together_are_blamed_on_the_overrides(
    tmp_path: Path, overrides: list[str], blamed: list[str]
) -> None:
    path = tmp_path / "p.yaml"
    path.write_text("model:\n  n_head: 3\n  n_embd: 96\n", "utf-8")
    with pytest.raises(ProfileError) as caught:
        load_profile(path, overrides)
    assert len(caught.value.problems) == len(blamed)
    for problem, expected in zip(caught.value.problems, blamed, strict=True):
        assert problem.startswith(expected)


def test_keys_of_a_file_that_do_not_go_together_are_not_blamed_on_an_override(tmp_path: Path) -> None:
    path = tmp_path / "p.yaml"
    path.write_text("model:\n  n_head: 3\n  n_embd: 100\n", "utf-8")
    with pytest.raises(ProfileError) as caught:
        load_profile(path, ["dropout=0.1"])
    assert caught.value.problems[0].startswith(f"{path}:1: model: n_embd 100 is not divisible by n_head 3")


@settings(deadline=None)
@given(
    st.fixed_dictionaries(
        {},
        optional={
            "description": st.text(st.characters(exclude_categories=["Cs", "Cc"]), max_size=40),
            "model": st.fixed_dictionaries({}, optional={"n_layer": st.integers(1, 99), "dropout": st.floats(0, 0.99)}),
            "train": st.fixed_dictionaries(
                {}, optional={"learning_rate": st.floats(1e-9, 1.0), "compile": st.sampled_from(["auto", True, False])}
            ),
            "sample": st.fixed_dictionaries(
                {}, optional={"prompt": st.text(max_size=20), "stop": st.lists(st.text(min_size=1))}
            ),
        },
    )
)
def test_a_profile_written_and_read_back_is_equal(values: dict[str, object]) -> None:
    profile = build_profile(values)
    read, _ = load_yaml(dump_profile(profile))
    assert build_profile(read) == profile


@pytest.mark.parametrize("mark", ["\x85", "\u2028", "\u2029", "\ufeff", "\r\n", "\t", "\0", " a\n \x85b: # c\n"])
def test_line_ends_of_every_kind_survive_in_a_profile(mark: str) -> None:
    profile = build_profile({"sample": {"prompt": mark, "stop": [f"a{mark}b"]}})
    assert build_profile(load_yaml(dump_profile(profile))[0]) == profile


def test_a_profile_of_the_working_directory_wins_over_a_built_in_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert find_profile("quickstart").builtin
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs" / "quickstart.yaml").write_text("description: mine\n", "utf-8")
    found = find_profile("quickstart")
    assert not found.builtin
    assert load_profile(found.path).description == "mine"
    assert [profile.name for profile in profiles()].count("quickstart") == 1


def test_a_folder_of_the_same_name_hides_no_profile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("quickstart", "other", "dir.yaml"):
        (tmp_path / name).mkdir()
    assert find_profile("quickstart").builtin
    for name in ("other", "dir.yaml"):
        with pytest.raises(ProfileError, match="is a folder, not a profile"):
            find_profile(name)


@pytest.mark.parametrize("name", ["", "a" * 5000, "a\0b", "a\0.yaml", "x/y/z"])
def test_what_cannot_be_a_file_is_no_profile_either(name: str) -> None:
    with pytest.raises(ProfileError, match="There is no profile"):
        find_profile(name)


def test_an_unknown_profile_offers_the_nearest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ProfileError, match="no profile called 'quickstrat'") as caught:
        find_profile("quickstrat")
    assert "Did you mean quickstart" in caught.value.hint


def test_defaults_are_a_valid_profile() -> None:
    assert build_profile({}) == RunProfile()


def test_a_file_that_was_changed_is_read_anew(tmp_path: Path) -> None:
    path = tmp_path / "p.yaml"
    for n_layer in (2, 3):
        path.write_text(f"model: {{n_layer: {n_layer}}}\n", "utf-8")
        assert load_profile(path).model.n_layer == n_layer
        assert load_profile(path, ["n_layer=5"]).model.n_layer == 5
    path.write_text("model: {n_layer: no}\n", "utf-8")
    for _ in range(2):
        with pytest.raises(ProfileError, match="mistake"):
            load_profile(path)


@pytest.mark.parametrize("key", ["max_steps", "batch_size", "grad_accum_steps", "learning_rate"])
def test_a_number_beyond_all_measure_is_a_mistake(key: str) -> None:
    with pytest.raises(ProfileError, match=key):
        build_profile({}, [f"{key}=1{'0' * 400}"])


YAML = (
    *("model", "train", "n_layer", "stop", "seed", ": ", ":", "\n", "  ", "- ", "[", "]", "{", "}", ",", "'", '"', "1"),
    *("1e400", ".nan", ".inf", "9" * 30, "!!python/object:os.system", "&a", "*a", "<<", "|", "#", "---", "null"),
    *("1_000", "0x10", "-1", "?", "%", "\t", "\x00", "\u202e", "2020-01-01", "12:30:45", "[" * 300, "a: " * 300),
)


@settings(deadline=None)
@given(st.one_of(st.lists(st.sampled_from(YAML), max_size=25).map(lambda words: "".join(words).encode()), st.binary()))
def test_any_file_is_a_profile_or_a_mistake_that_names_it(content: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "any.yaml"
        path.write_bytes(content)
        try:
            profile, said = load_profile(path), ""
        except ProfileError as error:
            profile, said = RunProfile(), str(error)
    assert not said or "any.yaml" in said
    assert build_profile(load_yaml(dump_profile(profile))[0]) == profile


def test_differences_are_told_by_key_in_the_order_of_the_fields() -> None:
    a = build_profile({"model": {"n_layer": 2}, "sample": {"stop": ["x"]}})
    b = build_profile({"train": {"max_steps": 5}, "data": {"corpus": "c"}})
    assert profile_differences(a, b) == [
        ("model.n_layer", 2, 4),
        ("data.corpus", None, "c"),
        ("train.max_steps", 1000, 5),
        ("sample.stop", ["x"], []),
    ]
    assert profile_differences(a, a) == []


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"model: {n_layer: 2}\n", []),
        (b"train: {seed: x}\nmodel:\n  n_layr: 2\n", [1, 3]),
        (b"a: 1\na: 2\n", [2]),
        (b"\xff", [None]),
        (b"# " + b"x" * 2**21, [None]),
        (b"\x00\x01\x02", [1]),
    ],
    ids=["valid", "two", "duplicate", "latin1", "large", "binary"],
)
def test_mistakes_come_with_their_lines_in_order(tmp_path: Path, content: bytes, expected: list[int | None]) -> None:
    path = tmp_path / "p: 3.yaml"
    path.write_bytes(content)
    mistakes = profile_mistakes(path)
    assert [line for line, _ in mistakes] == expected
    assert all(said and str(path) not in said for _, said in mistakes)


def test_keys_that_a_file_and_overrides_set_are_known(tmp_path: Path) -> None:
    path = tmp_path / "p.yaml"
    path.write_text("model: {n_layer: 2}\ndata:\ntrain: {}\n", "utf-8")
    assert given_keys(path) == {("model", "n_layer")}
    assert given_keys(path, ["max_steps=3"]) == {("model", "n_layer"), ("train", "max_steps")}


def test_the_header_is_the_comments_at_the_top_without_those_for_programs() -> None:
    text = "# yaml-language-server: $schema=./x.json\n# checksum: 12\n# One.\n# Two.\nmodel:  # no\n# nor this\n"
    assert header_of(text) == "# One.\n# Two."


@pytest.mark.parametrize(
    ("place", "schema", "modeline"),
    [
        (None, "configs/profile.schema.json", "./profile.schema.json"),
        ("mine.yaml", "configs/profile.schema.json", "./configs/profile.schema.json"),
        ("a/b/mine.yaml", "configs/profile.schema.json", "../../configs/profile.schema.json"),
        ("../mine.yaml", "../profile.schema.json", "./profile.schema.json"),
    ],
)
def test_a_copy_keeps_its_comments_and_names_a_schema_that_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str | None, schema: str, modeline: str
) -> None:
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    original = find_profile("quickstart").path.read_text("utf-8")
    path = copy_profile("quickstart", None if place is None else Path(place))
    assert path == Path(place or "configs/quickstart.yaml")
    first, _, rest = path.read_text("utf-8").partition("\n")
    assert first == f"# yaml-language-server: $schema={modeline}"
    assert rest == original.partition("\n")[2]
    assert Path(schema).read_text("utf-8") == schema_text()
    assert load_profile(path) == load_profile(find_profile("quickstart").path if place else path)


def test_a_copy_replaces_nothing_unless_it_is_forced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    path = copy_profile("macbook", Path("mine.yaml"))
    assert copy_profile("macbook", path) == path, "nothing is lost where it is the same"
    path.write_text("description: mine\n", "utf-8")
    (tmp_path / "configs" / "profile.schema.json").write_text("{}", "utf-8")
    with pytest.raises(ProfileError, match="is there already") as caught:
        copy_profile("macbook", path)
    assert "--force" in caught.value.hint
    assert path.read_text("utf-8") == "description: mine\n"
    assert copy_profile("macbook", path, force=True) == path
    assert "Any text of your own" in path.read_text("utf-8")
    with pytest.raises(ProfileError, match="is a folder"):
        copy_profile("macbook", Path("configs"))
