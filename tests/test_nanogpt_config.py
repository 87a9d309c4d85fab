from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from gptcli.errors import ProfileError
from gptcli.nanogpt_config import DEFAULTS, ImportedProfile, import_config
from gptcli.profiles import build_profile

# The files below are written after the values of nanoGPT's and of a blog's recipes.
BABY = """
out_dir = 'out-shakespeare-char'
eval_interval = 250
eval_iters = 200
log_interval = 10
always_save_checkpoint = False
wandb_log = False
wandb_project = 'shakespeare-char'
wandb_run_name = 'mini-gpt'
dataset = 'shakespeare_char'
gradient_accumulation_steps = 1
batch_size = 64
block_size = 256
n_layer = 6
n_head = 6
n_embd = 384
dropout = 0.2
learning_rate = 1e-3
max_iters = 5000
lr_decay_iters = 5000
min_lr = 1e-4
beta2 = 0.99
warmup_iters = 100
"""
FINETUNE = """
import time
out_dir = 'out-shakespeare'
eval_interval = 5
eval_iters = 40
wandb_log = False
wandb_project = 'shakespeare'
wandb_run_name = 'ft-' + str(time.time())
dataset = 'shakespeare'
init_from = 'gpt2-xl'
always_save_checkpoint = False
batch_size = 1
gradient_accumulation_steps = 32
max_iters = 20
learning_rate = 3e-5
decay_lr = False
"""
GPT2 = """
wandb_log = True
wandb_project = 'owt'
wandb_run_name='gpt2-124M'
batch_size = 12
block_size = 1024
gradient_accumulation_steps = 5 * 8
max_iters = 600000
lr_decay_iters = 600000
eval_interval = 1000
eval_iters = 200
log_interval = 10
weight_decay = 1e-1
"""
EVAL = """
batch_size = 8
eval_iters = 500
eval_only = True
wandb_log = False
init_from = 'gpt2'
"""
POIROT = BABY.replace("shakespeare-char", "poirot").replace("shakespeare_char", "agatha").replace("= 64", "= 32")
FINETUNE_POIROT = FINETUNE.replace("shakespeare", "agatha").replace("gpt2-xl", "gpt2-large").replace("= 20", "= 10")


def load(text: str, folder: Path, name: str = "config.py") -> ImportedProfile:
    (folder / name).write_text(text, "utf-8")
    return import_config(folder / name)


def flat(values: dict[str, Any]) -> dict[str, Any]:
    return {
        f"{section}.{key}": value
        for section, keys in values.items()
        if isinstance(keys, dict)
        for key, value in keys.items()
    }


def test_baby_gpt_becomes_a_profile_with_every_key(tmp_path: Path) -> None:
    imported = load(BABY, tmp_path, "train_shakespeare_char.py")
    assert flat(imported.values) == {
        "model.family": "gpt2",
        "model.n_layer": 6,
        "model.n_head": 6,
        "model.n_embd": 384,
        "model.block_size": 256,
        "model.dropout": 0.2,
        "model.bias": False,
        "model.gelu": "exact",
        "data.corpus": "shakespeare",
        "data.tokenizer": "char",
        "data.split_at": 0.9,
        "train.batch_size": 64,
        "train.learning_rate": 1e-3,
        "train.weight_decay": 0.1,
        "train.beta1": 0.9,
        "train.beta2": 0.99,
        "train.grad_clip": 1.0,
        "train.eval_interval": 250,
        "train.grad_accum_steps": 1,
        "train.max_steps": 5000,
        "train.optimizer": "adamw",
        "train.log_interval": 10,
        "train.save_interval": 5000,
        "train.schedule": "cosine",
        "train.warmup_steps": 100,
        "train.min_lr": 1e-4,
    }
    assert imported.values["description"] == "Imported from nanoGPT's train_shakespeare_char.py"
    for words in ("eval_iters = 200: left out; the whole val", "--run", "the best and the last step", "wandb_*"):
        assert sum(words in note for note in imported.notes) == 1, words
    assert len(imported.notes) == 4


@pytest.mark.parametrize("base", ["gpt2-xl", "gpt2-large"])
def test_finetuning_keeps_the_shape_of_the_published_model(base: str, tmp_path: Path) -> None:
    imported = load(FINETUNE.replace("gpt2-xl", base), tmp_path)
    values = flat(imported.values)
    assert imported.values["model"] == {"dropout": 0.0}
    assert values["finetune.base"] == base
    assert values["data.tokenizer"] == "gpt2"
    assert (values["train.schedule"], values["train.warmup_steps"], "train.min_lr" in values) == ("constant", 0, False)
    assert (values["train.grad_accum_steps"], values["train.learning_rate"]) == (32, 3e-5)
    assert any("config.py:2: `import time` was left out" in note for note in imported.notes)
    assert not any("wandb_run_name" in note for note in imported.notes)


def test_gpt2_from_scratch_has_the_defaults_of_nanogpt(tmp_path: Path) -> None:
    values = flat(load(GPT2, tmp_path).values)
    expected = {
        "model.n_layer": 12,
        "model.n_embd": 768,
        "model.block_size": 1024,
        "data.corpus": "openwebtext",
        "data.tokenizer": "gpt2",
        "data.val_fraction": 0.0005,
        "train.grad_accum_steps": 40,
        "train.save_interval": 1000,
        "train.warmup_steps": 2000,
        "train.min_lr": 6e-5,
        "train.learning_rate": 6e-4,
        "train.beta2": 0.95,
    }
    assert {key: values[key] for key in expected} == expected


def test_evaluation_of_a_published_model_is_told_how_to_do(tmp_path: Path) -> None:
    imported = load(EVAL, tmp_path)
    assert imported.values["finetune"] == {"base": "gpt2"}
    assert any("gptcli eval RUN" in note for note in imported.notes)
    assert any("default of 40 applies" in note for note in imported.notes)


def test_dataset_without_a_recipe_keeps_its_name_and_is_told(tmp_path: Path) -> None:
    imported = load(POIROT, tmp_path)
    assert imported.values["data"] == {"corpus": "agatha"}
    assert any("--name agatha" in note and "data.tokenizer=char" in note for note in imported.notes)
    finetuned = load(FINETUNE_POIROT, tmp_path)
    assert (finetuned.values["data"], finetuned.values["train"]["max_steps"]) == ({"corpus": "agatha"}, 10)
    assert not any("auto chooses" in note for note in finetuned.notes)
    assert load("dataset = 'poe_char'", tmp_path).values["data"] == {"corpus": "poe_char", "tokenizer": "char"}


@pytest.mark.parametrize("text", ["", BABY, FINETUNE, GPT2, EVAL, POIROT, FINETUNE_POIROT])
def test_every_imported_profile_is_valid(text: str, tmp_path: Path) -> None:
    values = load(text, tmp_path).values
    profile = build_profile(values)
    assert profile.train.optimizer == "adamw"


@pytest.mark.parametrize("key", DEFAULTS)
def test_every_key_of_nanogpt_changes_the_profile_or_is_told(key: str, tmp_path: Path) -> None:
    others: dict[str, object] = {
        "init_from": "'resume'",
        "dataset": "'poe'",
        "always_save_checkpoint": False,
        "decay_lr": False,
        "device": "'cpu'",
        "dtype": "'float32'",
        "compile": False,
        "eval_only": True,
        "bias": True,
        "out_dir": "'else'",
        "backend": "'gloo'",
        "learning_rate": 1e-3,
        "n_embd": 24,
        "dropout": 0.1,
        "beta1": 0.5,
        "beta2": 0.5,
    }
    plain, changed = load("", tmp_path), load(f"{key} = {others.get(key, 6)}", tmp_path)
    assert (plain.values, plain.notes) != (changed.values, changed.notes)


def test_sampling_keys_become_the_sample_section(tmp_path: Path) -> None:
    text = "start = 'Once'\nnum_samples = 3\nmax_new_tokens = 50\ntemperature = 1\ntop_k = 200\nseed = 7\n"
    assert load(text, tmp_path).values["sample"] == {
        "prompt": "Once",
        "num_samples": 3,
        "max_new_tokens": 50,
        "temperature": 1.0,
        "top_k": 200,
        "seed": 7,
    }
    imported = load("start = 'FILE:prompt.txt'\ntop_k = None", tmp_path)
    assert imported.values["sample"] == {"top_k": None}
    assert any("--prompt-file prompt.txt" in note for note in imported.notes)


@pytest.mark.parametrize(
    ("expression", "value"),
    [
        ("5 * 8", 40),
        ("2 ** 5 - 1", 31),
        ("100 // 3", 33),
        ("-(-7)", 7),
        ("+7 + 0", 7),
        ("half * 2", 6),
        ("5e3", 5000),
        ("12 * 10 / 5", 24),
        ("1_000", 1000),
    ],
)
def test_arithmetic_is_worked_out(expression: str, value: int, tmp_path: Path) -> None:
    imported = load(f"'''A text.'''\nhalf = 3\nmax_iters = lr_decay_iters = {expression}\npass\n", tmp_path)
    assert imported.values["train"]["max_steps"] == value


def test_names_of_train_py_have_its_values(tmp_path: Path) -> None:
    values = flat(load("batch_size *= 2\nn_embd = n_head * 32\neval_interval = max_iters // 100", tmp_path).values)
    assert (values["train.batch_size"], values["model.n_embd"], values["train.eval_interval"]) == (24, 384, 6000)


def test_other_ways_to_assign_are_followed(tmp_path: Path) -> None:
    text = "n_layer: int = 2\nn_layer *= 4\nn_head = 4\nn_embd = 16 * n_head\nbias = not False\ndataset = 'a' + 'b'\n"
    values = flat(load(text, tmp_path).values)
    assert (values["model.n_layer"], values["model.n_embd"], values["model.bias"]) == (8, 64, True)
    assert values["data.corpus"] == "ab"


@pytest.mark.parametrize(
    "statement",
    [
        "max_iters = 10 ** 10 ** 10",
        "max_iters = 2 ** -1 ** 99 ** 99",
        "max_iters = (2 ** 60) * (2 ** 60) * (2 ** 60)",
        "max_iters = 1 // 0",
        "max_iters = 1e300 ** 2",
        "max_iters = (-8) ** 0.5",
        "max_iters = 'a' * 10 ** 9",
        "max_iters = 5 + 'a'",
        "max_iters = None + 1",
        "max_iters = unknown",
        "max_iters = int('5')",
        "max_iters = [5][0]",
        "max_iters = 5 if True else 6",
        "max_iters = 5 @ 6",
        "max_iters = ~5",
        "max_iters = (lambda: 5)()",
        "max_iters, n_layer = 5, 6, 7",
        "max_iters, *n_layer = 5, 6",
        "(max_iters, n_layer), n_head = 5, 6",
        "max_iters, warmup_iters = int('5'), 6",
        "print(max_iters := 5)",
        "wandb_log = (max_iters := 5)",
        "from config import max_iters",
        "def max_iters(): ...",
        "max_iters: int",
        "if True:\n    max_iters = 5",
        "for max_iters in range(5):\n    pass",
        "del max_iters",
        "with open('x') as max_iters:\n    pass",
    ],
)
def test_what_would_have_to_be_run_is_left_out_and_told(statement: str, tmp_path: Path) -> None:
    imported = load(f"n_layer = 2\nmax_iters = 7\n{statement}\n", tmp_path)
    assert imported.values["train"]["max_steps"] == 600_000
    told = [note for note in imported.notes if note.startswith("config.py:3: ")]
    assert len(told) == 1
    assert "max_iters" in told[0]


@pytest.mark.parametrize(
    "statement", ["max_iters = int(5000)", "if x:\n    max_iters = 5000", "del max_iters", "print(max_iters := 5000)"]
)
def test_what_is_worked_out_from_an_unknown_value_is_not_known_either(statement: str, tmp_path: Path) -> None:
    text = f"{statement}\nmax_iters *= 2\neval_interval = max_iters // 100\nwarmup_iters = eval_interval"
    imported, line = load(text, tmp_path), text.splitlines().index("max_iters *= 2") + 1
    told = [note for note in imported.notes if "is by then is not known" in note]
    assert told == [
        f"config.py:{line}: max_iters was left out: what max_iters is by then is not known.",
        f"config.py:{line + 1}: eval_interval was left out: what max_iters is by then is not known.",
        f"config.py:{line + 2}: warmup_iters was left out: what eval_interval is by then is not known.",
    ]
    assert imported.notes[-1].endswith("with them: eval_interval 2000, max_iters 600000, warmup_iters 2000.")


def test_value_that_is_assigned_again_is_known_again(tmp_path: Path) -> None:
    imported = load("max_iters = int(5)\nmax_iters = 7000\nlr_decay_iters = max_iters\n", tmp_path)
    assert imported.values["train"]["max_steps"] == 7000
    assert [note for note in imported.notes if "left out" in note] == [
        "config.py:1: max_iters was left out: `int(5)` would have to be run."
    ]


def test_tuples_of_equal_length_are_unpacked(tmp_path: Path) -> None:
    text = "n_head, n_embd = n_layer, block_size = 3, 96\nn_head, (n_layer, [bias]) = n_layer + 1, (n_head, [True])\n"
    values = load(text, tmp_path).values["model"]
    assert (values["n_head"], values["n_layer"], values["n_embd"], values["block_size"], values["bias"]) == (
        4, 3, 96, 96, True,
    )  # fmt: skip
    half = load("batch_size, n_head = 3, int(4)\n", tmp_path)
    assert half.values["train"]["batch_size"] == 3
    assert any("n_head was left out" in note for note in half.notes)


LARGE = ["1" + "0" * 400, "-1" + "0" * 400, "0x" + "f" * 20_000, "2 ** 64 * 2 ** 63 * 2", "not_yet + 0x" + "f" * 20_000]


@pytest.mark.parametrize("key", [*DEFAULTS, "temperature", "seed", "other"])
@pytest.mark.parametrize("large", LARGE, ids=["decimal", "negative", "hexadecimal", "worked out", "unknown"])
def test_whole_number_of_too_many_bits_is_left_out_and_told(key: str, large: str, tmp_path: Path) -> None:
    plain, imported = load("", tmp_path), load(f"{key} = {large}\nprint({large})\n", tmp_path)
    assert imported.values == plain.values
    assert imported.notes[0].startswith(f"config.py:1: {key} was left out")
    assert max(map(len, imported.notes[:2])) < 200


@pytest.mark.parametrize("length", [300, 700, 3000])
@pytest.mark.parametrize("statement", ["max_iters = {}", "print({})"])
def test_expression_without_end_is_worked_out_or_told(statement: str, length: int, tmp_path: Path) -> None:
    try:
        imported = load(statement.format("1 + " * length + "1"), tmp_path)
    except ProfileError as error:
        assert "config.py: this is not Python that can be read" in error.message  # noqa: PT017 - either is right
    else:
        worked_out = imported.values["train"]["max_steps"] == length + 1
        assert worked_out != any("left out" in note for note in imported.notes)


def test_nothing_of_the_file_is_run(tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    touch = f"os.system('touch {mark}')"
    text = f"import os\n{touch}\ndevice = {touch}\nn_layer = 3\n"
    text += f"class A:\n    {touch}\ndef f(x={touch}): ...\n"
    imported = load(text, tmp_path)
    assert not mark.exists()
    assert imported.values["model"]["n_layer"] == 3
    assert "device" not in imported.values["train"]
    assert len([note for note in imported.notes if "left out" in note]) == 5
    exec(text, {})  # noqa: S102 - the payload is a real one
    assert mark.exists()


def test_unknown_key_is_told_unless_another_key_uses_it(tmp_path: Path) -> None:
    notes = load("steps = 9\nmax_iters = steps\nn_layers = 4\n", tmp_path).notes
    assert [note for note in notes if "no key of nanoGPT" in note] == [
        "config.py:3: n_layers = 4: no key of nanoGPT; left out."
    ]


def test_learning_rate_schedules_that_differ_are_told(tmp_path: Path) -> None:
    imported = load("max_iters = 100\nlearning_rate = 1e-5\nwarmup_iters = 90\n", tmp_path)
    assert imported.values["train"]["min_lr"] == 1e-5
    for words in ("lr_decay_iters is 600000", "min_lr 6e-05 is above", "warmup_iters is 90 of 100"):
        assert any(words in note for note in imported.notes), words


def test_commands_quote_what_the_file_says(tmp_path: Path) -> None:
    text = "dataset = 'a; touch x'\nstart = 'FILE:b; touch x'\ninit_from = 'resume'\nout_dir = 'c; touch x'\n"
    notes = "\n".join(load(text, tmp_path).notes)
    for quoted in ("--name 'a; touch x'", "--prompt-file 'b; touch x'", "--from 'nanogpt:c; touch x/ckpt.pt'"):
        assert quoted in notes


@pytest.mark.parametrize("dataset", ["../x", "/etc", "a/b"])
def test_dataset_that_is_a_path_is_refused_with_its_line(dataset: str, tmp_path: Path) -> None:
    with pytest.raises(ProfileError, match=rf"config\.py:1: .*'{dataset}' is not the name of a folder"):
        load(f"dataset = '{dataset}'\n", tmp_path)


def test_beginnings_that_a_profile_cannot_name_are_told(tmp_path: Path) -> None:
    notes = load("init_from = 'resume'\nout_dir = 'mine'", tmp_path).notes
    assert any("--from nanogpt:mine/ckpt.pt" in note for note in notes)
    assert any("not known" in note for note in load("init_from = 'llama'", tmp_path).notes)
    assert any("gptcli knows gpt2" in note for note in load("init_from = 'gpt2-huge'", tmp_path).notes)
    longer = load("init_from = 'gpt2'\nblock_size = 2048\nn_layer = 3", tmp_path)
    assert longer.values["model"] == {"dropout": 0.0}
    assert any("gpt2 has 1,024" in note for note in longer.notes)
    assert any("the shape is that of gpt2" in note for note in longer.notes)
    assert load("init_from = 'gpt2'\nblock_size = 256", tmp_path).values["model"]["block_size"] == 256


def test_machine_is_left_to_gptcli_unless_the_file_names_it(tmp_path: Path) -> None:
    assert {"device", "dtype", "compile"} & set(load(BABY, tmp_path).values["train"]) == set()
    named = load("device = 'cuda:1'\ndtype = 'float16'\ncompile = False", tmp_path).values["train"]
    assert (named["device"], named["dtype"], named["compile"]) == ("cuda:1", "float16", False)


def test_all_values_that_cannot_be_are_told_with_their_lines(tmp_path: Path) -> None:
    with pytest.raises(ProfileError) as caught:
        load("batch_size = 0\ndevice = 'tpu'\n\nn_head = 'six'\ndropout = 2\n", tmp_path)
    for words in ("config.py:1: train.batch_size", "config.py:2: train.device", "config.py:4: model.n_head"):
        assert words in caught.value.message
    assert "config.py:5: model.dropout" in caught.value.message


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"n_layer = = 2", ":1: this is not Python"),
        (b"n_layer = 2\n  n_head = 3", ":2: this is not Python"),
        (b"\xff\xfe", "is not UTF-8 text"),
        (b"a = 1\x00", "this is not Python"),
        (b"a = " + b"(" * 5000 + b")" * 5000, "this is not Python"),
        (b"a = " + b"-" * 100_000 + b"1", "this is not Python"),
        (b"#" * (1 << 20) + b"##", "larger than"),
    ],
)
def test_file_that_is_no_python_is_refused(content: bytes, told: str, tmp_path: Path) -> None:
    (tmp_path / "config.py").write_bytes(content)
    with pytest.raises(ProfileError) as caught:
        import_config(tmp_path / "config.py")
    assert told in caught.value.message


def test_missing_file_and_folder_are_told(tmp_path: Path) -> None:
    for path in (tmp_path / "none.py", tmp_path):
        with pytest.raises(ProfileError, match="cannot be read"):
            import_config(path)
