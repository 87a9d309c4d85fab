from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from gptcli.bases.base import build_model
from gptcli.bases.folder import open_folder
from gptcli.config import ModelConfig, SampleConfig
from gptcli.errors import FormatError, TokenizerError
from gptcli.sample import generate
from tests.bases.saved import GPT2, MODERN, qwen_tokenizer, rewrite_json, save_model, save_tokenizer_of_qwen

FAMILIES = pytest.mark.parametrize("config", [GPT2, MODERN], ids=["gpt2", "modern"])
TEXT = "Mr. Leopold Bloom ate with relish the inner organs of beasts and fowls. " * 20


@pytest.fixture(autouse=True)
def gpt2_vocabulary(shared_data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """GPT-2's vocabulary without a network."""
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(shared_data / "tiktoken"))


@pytest.fixture
def qwen(tmp_path: Path) -> Path:
    """A folder like Qwen3-0.6B-Base's: a tied model in bfloat16 whose vocabulary is padded, and its own tokenizer."""
    folder = tmp_path / "qwen"
    save_tokenizer_of_qwen(qwen_tokenizer([TEXT], 300), folder)
    config = MODERN.model_copy(update={"vocab_size": 320})
    save_model(config, tmp_path / "float32").to(torch.bfloat16).save_pretrained(folder)
    rewrite_json(folder / "config.json", eos_token_id=300)
    return folder


@FAMILIES
def test_folder_by_save_pretrained_gives_its_logits_and_its_greedy_tokens(
    config: ModelConfig, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    theirs = save_model(config, tmp_path)
    capfd.readouterr()
    base = open_folder(tmp_path, "x")
    model = build_model(base)
    assert capfd.readouterr() == ("", "")
    assert (base.config, base.kind, base.origin) == (config, "folder", {"folder": str(tmp_path)})
    tokens = torch.from_numpy(base.tokenizer.encode("Mr. Leopold Bloom").astype("int64"))[None]
    with torch.inference_mode():
        torch.testing.assert_close(model(tokens), theirs(tokens).logits, atol=1e-5, rtol=1e-5)
        written = theirs.generate(tokens, max_new_tokens=10, do_sample=False, pad_token_id=0, eos_token_id=None)
    pieces = generate(model, base.tokenizer, "Mr. Leopold Bloom", SampleConfig(max_new_tokens=10, temperature=0))
    assert [piece.token_id for piece in pieces] == written[0, tokens.size(1) :].tolist()


@FAMILIES
def test_model_is_ready_to_train_when_its_folder_is_gone(config: ModelConfig, tmp_path: Path) -> None:
    theirs = save_model(config, tmp_path)
    model = build_model(open_folder(tmp_path, "x"))
    shutil.rmtree(tmp_path)
    tokens = torch.randint(31, (2, 12))
    torch.testing.assert_close(model(tokens), theirs(tokens).logits, atol=1e-5, rtol=1e-5)
    model(tokens, tokens).backward()
    with torch.no_grad():
        for p in model.parameters():
            assert p.grad is not None
            assert (p.device.type, p.dtype, p.is_contiguous()) == ("cpu", torch.float32, True)
            p.sub_(p.grad)


@FAMILIES
def test_half_precision_in_several_files_stays_as_it_is_until_it_is_used(config: ModelConfig, tmp_path: Path) -> None:
    theirs = save_model(config, tmp_path / "whole").to(torch.bfloat16)
    theirs.save_pretrained(tmp_path / "pieces", max_shard_size="2KB")
    assert len(list((tmp_path / "pieces").glob("*.safetensors"))) > 1
    base = open_folder(tmp_path / "pieces", "x")
    assert {base.weights[name].dtype for name in base.weights} == {torch.bfloat16}
    tokens = torch.randint(31, (1, 9))
    with torch.inference_mode():
        expected = theirs.to(torch.float32)(tokens).logits
        torch.testing.assert_close(build_model(base)(tokens), expected, atol=1e-5, rtol=1e-5)


def test_qwen3_comes_with_its_tokenizer_and_without_its_padding(qwen: Path) -> None:
    base = open_folder(qwen, "Qwen/x")
    assert (base.tokenizer.name, base.tokenizer.vocab_size, base.tokenizer.end_of_text) == ("pretrained", 305, 300)
    assert base.config == MODERN.model_copy(update={"vocab_size": 305})
    assert base.notes == ("15 rows that only pad the vocabulary of Qwen/x are left out: it has 305 tokens.",)
    theirs = transformers.AutoModelForCausalLM.from_pretrained(qwen, dtype=torch.float32)
    tokens = torch.from_numpy(base.tokenizer.encode("Mr. Bloom").astype("int64"))[None]
    with torch.inference_mode():
        expected = theirs(tokens).logits[..., :305]
        torch.testing.assert_close(build_model(base)(tokens), expected, atol=1e-5, rtol=1e-5)


def test_head_that_is_written_beside_its_equal_embedding_is_left_out(qwen: Path) -> None:
    tensors = load_file(qwen / "model.safetensors")
    save_file({**tensors, "lm_head.weight": tensors["model.embed_tokens.weight"].clone()}, qwen / "model.safetensors")
    assert "head.weight" not in open_folder(qwen, "x").weights
    save_file({**tensors, "lm_head.weight": tensors["model.embed_tokens.weight"] + 1}, qwen / "model.safetensors")
    with pytest.raises(FormatError, match=r"lm_head.weight differs from the embedding"):
        open_folder(qwen, "x")


def test_names_and_masks_of_the_published_gpt2_are_read(tmp_path: Path) -> None:
    theirs = save_model(GPT2, tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    old = {name.removeprefix("transformer."): tensor for name, tensor in tensors.items()}
    old["h.0.attn.bias"] = torch.ones(1, 1, 16, 16, dtype=torch.uint8)
    save_file(old, tmp_path / "model.safetensors")
    tokens = torch.randint(31, (1, 9))
    with torch.inference_mode():
        torch.testing.assert_close(build_model(open_folder(tmp_path, "x"))(tokens), theirs(tokens).logits)


@pytest.mark.parametrize("rows", [304, 305 + 1024])
def test_tokenizer_that_does_not_match_the_weights_is_refused_with_both_numbers(rows: int, qwen: Path) -> None:
    config = MODERN.model_copy(update={"vocab_size": rows})
    save_model(config, qwen)
    with pytest.raises(TokenizerError, match=rf"has 305 tokens, they have rows for {rows:,}\.") as caught:
        open_folder(qwen, "x")
    assert "tokenizer.json" in caught.value.hint


def test_another_class_is_named_and_refused(tmp_path: Path) -> None:
    transformers.LlamaConfig(architectures=["LlamaForCausalLM"]).save_pretrained(tmp_path)
    with pytest.raises(FormatError, match=r"LlamaForCausalLM was found; gptcli reads GPT2LMHeadModel and Qwen3"):
        open_folder(tmp_path, "x")


@FAMILIES
def test_tensors_missing_extra_and_of_another_shape_are_all_listed(config: ModelConfig, tmp_path: Path) -> None:
    save_model(config, tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    gone, bent = [name for name in sorted(tensors) if ".1." in name and tensors[name].dim() == 2][:2]
    tensors["extra.weight"] = tensors.pop(gone)
    tensors[bent] = tensors[bent][:1].clone()
    save_file(tensors, tmp_path / "model.safetensors")
    with pytest.raises(FormatError) as caught:
        open_folder(tmp_path, "x")
    assert str(tmp_path) in caught.value.message
    for line in (f"{gone} is missing", f"{bent} is (1, ", "extra.weight is not known"):
        assert line in caught.value.message


@pytest.mark.parametrize(
    "change",
    [
        *({"n_embd": 12}, {"n_layer": 3}, {"n_head": "two"}, {"n_head": 3}, {"vocab_size": 40}, {"n_layer": 10**8}),
        *({"n_layer": 10**9}, {"n_embd": 10**12, "n_head": 1}, {"n_embd": 2**27, "n_head": 1}, {"n_inner": 10**18}),
        *({"n_inner": 2**27}, {"resid_pdrop": 10**400}, {"n_positions": 2**27}, {"vocab_size": 2**27}),
    ],
    ids=lambda change: str(change)[:40],
)
def test_config_that_does_not_fit_the_weights_is_refused(change: dict[str, object], tmp_path: Path) -> None:
    save_model(GPT2, tmp_path)
    rewrite_json(tmp_path / "config.json", **change)
    with pytest.raises((FormatError, TokenizerError)):
        open_folder(tmp_path, "x")


@pytest.mark.parametrize("content", [b"", b"junk", b"\xff" * 100])
def test_damaged_weights_are_refused(content: bytes, tmp_path: Path) -> None:
    save_model(GPT2, tmp_path)
    (tmp_path / "model.safetensors").write_bytes(content)
    with pytest.raises(FormatError, match=r"model\.safetensors: the weights cannot be read"):
        open_folder(tmp_path, "x")


def test_weights_cut_short_are_refused(tmp_path: Path) -> None:
    save_model(GPT2, tmp_path)
    content = (tmp_path / "model.safetensors").read_bytes()
    (tmp_path / "model.safetensors").write_bytes(content[:-8])
    with pytest.raises(FormatError, match="the weights cannot be read"):
        open_folder(tmp_path, "x")


def test_pickled_weights_are_never_read(tmp_path: Path) -> None:
    theirs = save_model(GPT2, tmp_path)
    (tmp_path / "model.safetensors").unlink()
    torch.save(theirs.state_dict(), tmp_path / "pytorch_model.bin")
    with pytest.raises(FormatError, match=r"pytorch_model\.bin only, which can run code") as caught:
        open_folder(tmp_path, "x")
    assert "save_pretrained" in caught.value.hint
    (tmp_path / "pytorch_model.bin").unlink()
    with pytest.raises(FormatError, match="there are no weights"):
        open_folder(tmp_path, "x")


def test_a_folder_whose_name_would_end_the_quotes_is_no_part_of_a_command(tmp_path: Path) -> None:
    for name, shown in (("plain-1.0 b", f"from_pretrained('{tmp_path}/plain-1.0 b')"), ("a$(touch x)", "('MODEL')")):
        save_model(GPT2, tmp_path / name)
        (tmp_path / name / "model.safetensors").rename(tmp_path / name / "pytorch_model.bin")
        with pytest.raises(FormatError) as caught:
            open_folder(tmp_path / name, "x")
        assert shown in caught.value.hint


def test_missing_file_of_several_is_named(tmp_path: Path) -> None:
    save_model(GPT2, tmp_path, max_shard_size="200KB")
    first = min(tmp_path.glob("model-*.safetensors"))
    first.unlink()
    with pytest.raises(FormatError, match=rf"not whole: {first.name} of \d+ files is missing"):
        open_folder(tmp_path, "x")


@pytest.mark.parametrize("weight_map", [None, {}, {"a": "../../secret.safetensors"}, {"a": "x.bin"}, {"a": 3}])
def test_index_that_leads_elsewhere_is_refused(weight_map: object, tmp_path: Path) -> None:
    save_model(GPT2, tmp_path)
    (tmp_path / "model.safetensors").unlink()
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}), "utf-8")
    with pytest.raises(FormatError, match="it should list files of safetensors"):
        open_folder(tmp_path, "x")


def test_number_format_that_we_do_not_compute_is_named(tmp_path: Path) -> None:
    save_model(GPT2, tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    tensors["transformer.wpe.weight"] = tensors["transformer.wpe.weight"].to(torch.int8)
    save_file(tensors, tmp_path / "model.safetensors")
    with pytest.raises(FormatError, match=r"such as I8 in transformer\.wpe\.weight"):
        open_folder(tmp_path, "x")


@pytest.mark.parametrize("content", ["[]", "{", "null", "\udcff", "[" * 100_000])
def test_damaged_config_is_refused(content: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(content, "utf-8", "surrogateescape")
    with pytest.raises(FormatError, match=r"config\.json"):
        open_folder(tmp_path, "x")


def test_nothing_that_a_folder_brings_along_is_executed(qwen: Path, tmp_path: Path) -> None:
    trace = tmp_path / "executed"
    (qwen / "modeling_evil.py").write_text(f"open({str(trace)!r}, 'w')\n", "utf-8")
    evil = {"AutoConfig": "modeling_evil.C", "AutoModelForCausalLM": "modeling_evil.M"}
    rewrite_json(qwen / "config.json", auto_map=evil)
    template = "{{ ''.__class__.__mro__[1].__subclasses__() }}"
    rewrite_json(qwen / "tokenizer_config.json", auto_map=evil, chat_template=template, tokenizer_class="Evil")
    base = open_folder(qwen, "x")
    assert base.chat is None
    assert not trace.exists()
