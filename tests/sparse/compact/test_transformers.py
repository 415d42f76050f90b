"""Small nets of Hugging Face's classes: hidden units and heads go, with the cache on as it is by default."""

from collections.abc import Mapping
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from bayesprune.sparse.compact import compact
from bayesprune.sparse.surgery.masked import masked_copy

transformers = pytest.importorskip("transformers")

WIDTH, HEADS, INNER = 32, 4, 64
IDS = torch.randint(3, 60, (2, 7), generator=torch.Generator().manual_seed(0))
COMMON = {
    "hidden_size": WIDTH,
    "num_hidden_layers": 1,
    "num_attention_heads": HEADS,
    "intermediate_size": INNER,
    "vocab_size": 60,
    "max_position_embeddings": 32,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
# By net: its settings beside those, and the first weights of its hidden units, queries, keys and attention's result.
LLAMA = ("layers.0.mlp.up_proj", "layers.0.self_attn.q_proj", "layers.0.self_attn.k_proj", "layers.0.self_attn.o_proj")
PHI = ("layers.0.mlp.fc1", "layers.0.self_attn.q_proj", "layers.0.self_attn.k_proj", "layers.0.self_attn.dense")
BERT = "encoder.layer.0."
NETS: Mapping[str, tuple[dict[str, Any], tuple[str, ...]]] = {
    "Llama": ({"num_key_value_heads": 2}, LLAMA),
    "Mistral": ({"num_key_value_heads": 2}, LLAMA),
    "Qwen2": ({"num_key_value_heads": 2}, LLAMA),
    "Qwen3": ({"num_key_value_heads": 2, "head_dim": 8}, LLAMA),
    "Gemma": ({"num_key_value_heads": 2, "head_dim": 8}, LLAMA),
    "Phi": ({}, PHI),
    "Bert": (
        {},
        (
            f"{BERT}intermediate.dense",
            f"{BERT}attention.self.query",
            f"{BERT}attention.self.key",
            f"{BERT}attention.output.dense",
        ),
    ),
}


def model(name: str, **settings: Any) -> nn.Module:
    torch.manual_seed(0)
    net = getattr(transformers, f"{name}Model")(getattr(transformers, f"{name}Config")(**settings)).eval()
    for parameter in net.parameters():
        if parameter.dim() == 1:
            nn.init.normal_(parameter, 0.5, 0.3)
    return net


def rows(net: nn.Module, name: str, axis: int = 0) -> Tensor:
    """The first half of a weight's slices empty."""
    weight = net.get_parameter(f"{name}.weight")
    return torch.ones(weight.shape, dtype=torch.bool).index_fill(axis, torch.arange(weight.shape[axis] // 2), False)


def smaller(net: nn.Module, masks: dict[str, Tensor], example: dict[str, Any], *more: dict[str, Any]) -> Any:
    """Made smaller, right on the example and on others."""
    small = compact(net, {}, masks, example=example)
    dense = masked_copy(net, {}, masks)
    for given in (example, *more):
        with torch.no_grad():
            a, b = dense(**given)[0], small.net(**given)[0]
        assert a.shape == b.shape and (a - b).abs().max() <= 1e-4 * a.abs().max()
    return small


slow = pytest.mark.slow


@pytest.mark.parametrize("name", [name if name == "Llama" else pytest.param(name, marks=slow) for name in NETS])
def test_hidden_units_and_heads_go(name: str) -> None:
    settings, (inner, query, key, out) = NETS[name]
    net = model(name, **COMMON, **settings)
    masks = {f"{one}.weight": rows(net, one) for one in (inner, query, key)}
    masks |= {f"{key}.weight".replace("k_proj", "v_proj").replace("key", "value"): rows(net, key)}
    masks |= {f"{out}.weight": rows(net, out, 1)}
    small = smaller(net, masks, {"input_ids": IDS}, {"input_ids": IDS[:1, :4]})
    before, after = ({n: p.shape for n, p in one.named_parameters()} for one in (net, small.net))
    assert after[f"{inner}.weight"][0] == INNER // 2
    assert after[f"{query}.weight"] == (WIDTH // 2, WIDTH) and after[f"{out}.weight"] == (WIDTH, WIDTH // 2)
    assert after[f"{key}.weight"][0] == before[f"{key}.weight"][0] // 2


@slow
def test_gpt2_holds_its_sizes_in_integers(tmp_path) -> None:
    net = model("GPT2", n_embd=WIDTH, n_layer=2, n_head=HEADS, vocab_size=60, n_positions=32, bos_token_id=1)
    each = [i for part in range(3) for i in range(WIDTH * part, WIDTH * part + WIDTH // 2)]
    masks = {}
    for layer in ("h.0", "h.1"):
        masks[f"{layer}.mlp.c_fc.weight"] = rows(net, f"{layer}.mlp.c_fc", 1)
        packed = torch.ones(WIDTH, 3 * WIDTH, dtype=torch.bool).index_fill(1, torch.tensor(each), False)
        masks |= {
            f"{layer}.attn.c_attn.weight": packed,
            f"{layer}.attn.c_proj.weight": rows(net, f"{layer}.attn.c_proj"),
        }
    small = smaller(net, masks, {"input_ids": IDS}, {"input_ids": IDS[:1, :4]})
    assert {"h.0.mlp.c_fc.nf", "h.0.attn.c_attn.nf", "h.1.attn.split_size"} <= small.changes.keys()
    assert small.net.get_parameter("h.1.attn.c_attn.weight").shape == (WIDTH, 3 * WIDTH // 2)
    assert not small.reasons


@slow
def test_albert_calls_one_layer_several_times() -> None:
    net = model("Albert", **{**COMMON, "num_hidden_layers": 3}, embedding_size=16)
    inner = "encoder.albert_layer_groups.0.albert_layers.0.ffn"
    small = smaller(net, {f"{inner}.weight": rows(net, inner)}, {"input_ids": IDS})
    assert small.net.get_parameter(f"{inner}.weight").shape[0] == INNER // 2


@slow
def test_t5_attends_to_its_encoder() -> None:
    sizes = {"d_model": WIDTH, "d_kv": 8, "d_ff": INNER, "num_layers": 1, "num_heads": HEADS, "vocab_size": 60}
    net = model("T5", **sizes, decoder_start_token_id=0)
    paths = [f"decoder.block.0.layer.1.EncDecAttention.{side}" for side in "qkv"]
    masks = {f"{one}.weight": rows(net, one) for one in (*paths, "encoder.block.0.layer.1.DenseReluDense.wi")}
    masks[f"{paths[0][:-1]}o.weight"] = rows(net, f"{paths[0][:-1]}o", 1)
    small = smaller(net, masks, {"input_ids": IDS, "decoder_input_ids": IDS[:, :3]})
    assert small.net.get_parameter(f"{paths[0]}.weight").shape == (WIDTH // 2, WIDTH)


@slow
@pytest.mark.parametrize("asked", [False, True], ids=["as made", "hooks hung on every layer"])
def test_hidden_units_within_layers_that_are_watched(asked: bool) -> None:
    net = model("Bert", **COMMON)
    if asked:
        net(IDS, output_hidden_states=True)
    inner = NETS["Bert"][1][0]
    small = smaller(net, {f"{inner}.weight": rows(net, inner)}, {"input_ids": IDS})
    assert small.net.get_parameter(f"{inner}.weight").shape[0] == INNER // 2


@slow
def test_segformer_mixes_images_and_tokens() -> None:
    sizes = {"hidden_sizes": [16, 32], "depths": [1, 1], "num_attention_heads": [1, 2], "num_encoder_blocks": 2}
    more = {"sr_ratios": [8, 4], "patch_sizes": [7, 3], "strides": [4, 2], "mlp_ratios": [4, 4]}
    net = model("Segformer", **sizes, **more)
    names = [name.removesuffix(".weight") for name, _ in net.named_parameters() if name.endswith("weight")]
    inner = next(name for name in names if name.endswith("mlp.fc1"))
    depthwise = next(name for name in names if name.endswith("dwconv.dwconv"))
    masks = {f"{name}.weight": rows(net, name) for name in (inner, depthwise)}
    small = smaller(net, masks, {"pixel_values": torch.randn(1, 3, 64, 64)})
    assert small.net.get_parameter(f"{inner}.weight").shape[0] == 32
