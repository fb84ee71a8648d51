"""Weights on disk, and SAT's checkpoints."""

import dataclasses
from pathlib import Path

import pytest
import torch
from torch import Tensor

from model.build import build_model
from model.config import AttentionConfig, FeedForwardConfig, ModelConfig, NormConfig
from model.hugging_face import export_hugging_face, import_hugging_face
from model.sat import import_sat
from model.transformer import Transformer
from model.weights import INDEX_NAME, SINGLE_NAME, TensorFolder, load_weights, save_tensors, save_weights

CONFIG = ModelConfig(
    vocab_size=64,
    hidden_size=32,
    num_layers=2,
    tie_embeddings=True,
    residual="deepnorm",
    norm=NormConfig(kind="layer_norm"),
    attention=AttentionConfig(num_heads=4, head_dim=8, qkv_bias=True, output_bias=True),
    feed_forward=FeedForwardConfig(kind="geglu", inner_size=24, bias=True, gate="second"),
)


def randomised(seed: int = 0) -> Transformer:
    model = build_model(CONFIG)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator))
    return model


def equal(one: Transformer, other: Transformer) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one.state_dict().values(), other.state_dict().values(), strict=True))


@pytest.mark.parametrize("shard_bytes", [10**9, 5000, 1])
def test_what_is_saved_is_loaded(shard_bytes: int, tmp_path: Path) -> None:
    model = randomised()
    written = save_weights(model, tmp_path, shard_bytes)
    assert (len(written) == 1) == (shard_bytes == 10**9)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(path.name for path in written)
    again = build_model(CONFIG, seed=9)
    load_weights(again, tmp_path)
    assert equal(model, again)


def test_a_second_save_leaves_nothing_of_the_first(tmp_path: Path) -> None:
    save_weights(randomised(0), tmp_path, shard_bytes=5000)
    save_weights(randomised(1), tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [SINGLE_NAME]
    save_weights(randomised(2), tmp_path, shard_bytes=5000)
    again = build_model(CONFIG)
    load_weights(again, tmp_path)
    assert equal(again, randomised(2))


def test_a_save_removes_the_parts_of_one_that_was_broken_off(tmp_path: Path) -> None:
    left = tmp_path / ".model-part-99.safetensors"
    left.write_bytes(b"half a shard")
    written = save_weights(randomised(), tmp_path, shard_bytes=5000)
    assert sorted(tmp_path.iterdir()) == sorted(written)


def test_a_folder_that_departs_is_refused_by_name(tmp_path: Path) -> None:
    state = dict(randomised().state_dict())
    name = "layers.1.mlp.down_proj.weight"
    for change, message in (
        ({k: v for k, v in state.items() if k != name}, f"misses {name}"),
        (state | {"layers.7.extra": torch.zeros(1)}, "has layers.7.extra, which the model has not"),
        (state | {name: torch.zeros(3, 4)}, rf"{name} has shape \(3, 4\), the model's has \(32, 24\)"),
    ):
        save_tensors(change.items(), tmp_path)
        untouched = build_model(CONFIG)
        with pytest.raises(ValueError, match=message):
            load_weights(untouched, tmp_path)
        assert equal(untouched, build_model(CONFIG))


def test_damage_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no such folder"):
        TensorFolder(tmp_path / "none")
    with pytest.raises(FileNotFoundError, match="holds neither"):
        TensorFolder(tmp_path)
    written = save_weights(randomised(), tmp_path, shard_bytes=5000)
    content = written[0].read_bytes()
    written[0].write_bytes(content[:100])
    with pytest.raises(ValueError, match=f"{written[0].name}: not a whole safetensors file"):
        TensorFolder(tmp_path)
    written[0].unlink()
    with pytest.raises(FileNotFoundError, match=f"named by {INDEX_NAME} and missing"):
        TensorFolder(tmp_path)
    (tmp_path / INDEX_NAME).write_text('{"weight_map": {"a": "../elsewhere.safetensors"}}')
    with pytest.raises(ValueError, match="outside its folder"):
        TensorFolder(tmp_path)


def test_a_glm130b_model_is_exported_under_our_names_and_read_back(tmp_path: Path) -> None:
    model = randomised()
    export_hugging_face(model, tmp_path, shard_bytes=5000)
    assert TensorFolder(tmp_path).names == set(model.state_dict())
    again = import_hugging_face(tmp_path)
    assert again.config == CONFIG
    assert equal(model, again)


def sat_checkpoint(model: Transformer, ranks: int) -> list[dict[str, Tensor]]:
    """The model as SAT's tensor-parallel ranks hold it, cut here by hand."""
    heads, width, parts = CONFIG.attention.num_heads, CONFIG.attention.head_dim, []
    for rank in range(ranks):

        def cut(tensor: Tensor, dim: int, rank: int = rank) -> Tensor:
            return tensor.chunk(ranks, dim=dim)[rank]

        module = {
            "transformer.word_embeddings.weight": cut(model.embed_tokens.weight, 0),
            "transformer.final_layernorm.weight": model.norm.weight,
            "transformer.final_layernorm.bias": model.norm.bias,
            "mixins.rotary-embedding.rotary_emb.inv_freq": torch.zeros(4),
        }
        for index, layer in enumerate(model.layers):
            name = f"transformer.layers.{index}."
            attention, fed = layer.self_attn, layer.mlp
            for kind in ("weight", "bias"):
                for norm in ("input_layernorm", "post_attention_layernorm"):
                    module[f"{name}{norm}.{kind}"] = getattr(getattr(layer, norm), kind)
                rows = [
                    getattr(p, kind).unflatten(0, (heads, width))
                    for p in (attention.q_proj, attention.k_proj, attention.v_proj)
                ]
                fused = torch.stack(rows, dim=1)[rank * heads // ranks : (rank + 1) * heads // ranks]
                module[f"{name}attention.query_key_value.{kind}"] = fused.flatten(0, 2)
                halves = [cut(half, 0) for half in getattr(fed.gate_up_proj, kind).chunk(2)]
                module[f"{name}mlp.dense_h_to_4h.{kind}"] = torch.cat(halves)
            module[f"{name}attention.dense.weight"] = cut(attention.o_proj.weight, 1)
            module[f"{name}attention.dense.bias"] = attention.o_proj.bias
            module[f"{name}mlp.dense_4h_to_h.weight"] = cut(fed.down_proj.weight, 1)
            module[f"{name}mlp.dense_4h_to_h.bias"] = fed.down_proj.bias
        parts.append({key: value.detach().clone() for key, value in module.items()})
    return parts


def written_ranks(parts: list[dict[str, Tensor]], folder: Path) -> list[Path]:
    paths = [folder / f"mp_rank_{rank:02}_model_states.pt" for rank in range(len(parts))]
    for path, part in zip(paths, parts, strict=True):
        torch.save({"module": part, "iteration": 49300}, path)
    return paths


@pytest.mark.parametrize("ranks", [1, 2, 4])
def test_a_sat_checkpoint_of_any_number_of_ranks_is_read(ranks: int, tmp_path: Path) -> None:
    model = randomised()
    paths = written_ranks(sat_checkpoint(model, ranks), tmp_path)
    assert equal(import_sat(paths, CONFIG), model)


def test_a_sat_checkpoint_that_departs_is_refused_by_name(tmp_path: Path) -> None:
    parts = sat_checkpoint(randomised(), 2)
    name = "transformer.layers.1.attention.dense.bias"
    lacking = [{key: value for key, value in part.items() if key != name} for part in parts]
    with pytest.raises(ValueError, match=f"misses {name}"):
        import_sat(written_ranks(lacking, tmp_path), CONFIG)
    with pytest.raises(ValueError, match=f"other tensors than .*{name}"):
        import_sat(written_ranks([parts[0], lacking[1]], tmp_path), CONFIG)
    with pytest.raises(ValueError, match="for which the configuration has no place"):
        import_sat(written_ranks(parts, tmp_path), dataclasses.replace(CONFIG, num_layers=1))
    with pytest.raises(ValueError, match=r"embed_tokens\.weight has shape \(64, 32\)"):
        import_sat(written_ranks(parts, tmp_path), dataclasses.replace(CONFIG, vocab_size=128))


def test_a_sat_file_that_is_cut_short_or_of_other_widths_is_named(tmp_path: Path) -> None:
    parts = sat_checkpoint(randomised(), 2)
    paths = written_ranks(parts, tmp_path)
    whole = paths[1].read_bytes()
    for length in (0, 100, len(whole) // 2, len(whole) - 1):
        paths[1].write_bytes(whole[:length])
        with pytest.raises(ValueError, match=f"{paths[1].name}: not a checkpoint"):
            import_sat(paths, CONFIG)
    name = "transformer.layers.0.attention.dense.weight"
    with pytest.raises(ValueError, match=rf"{name} has shape \(32, 16\) in one rank and \(3, 5\) in another"):
        import_sat(written_ranks([parts[0], parts[1] | {name: torch.zeros(3, 5)}], tmp_path), CONFIG)


class Hostile:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return (print, ("executed",))


def test_a_sat_file_that_would_execute_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "mp_rank_00_model_states.pt"
    torch.save({"module": Hostile()}, path)
    with pytest.raises(ValueError, match="not a checkpoint of tensors alone"):
        import_sat([path], CONFIG)
    assert "executed" not in capsys.readouterr().out
    path.write_bytes(b"nothing")
    with pytest.raises(ValueError, match="not a checkpoint of tensors alone"):
        import_sat([path], CONFIG)
