"""Architectures of transformers, small and with random weights."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from support.zoo.entry import Entry, tokens

__all__ = ["HUGGING_FACE"]

SMALL: dict[str, Any] = {
    "vocab_size": 32,
    "hidden_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 24,
    "max_position_embeddings": 32,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
GPT2 = {"n_embd": 16, "n_layer": 1, "n_head": 2, "n_positions": 32, "vocab_size": 32}
T5 = {"vocab_size": 32, "d_model": 16, "d_kv": 8, "d_ff": 24, "num_layers": 1, "num_heads": 2}
BART = {
    "vocab_size": 32,
    "d_model": 16,
    "encoder_layers": 1,
    "decoder_layers": 1,
    "encoder_attention_heads": 2,
    "decoder_attention_heads": 2,
    "encoder_ffn_dim": 24,
    "decoder_ffn_dim": 24,
    "max_position_embeddings": 32,
}
VIT = {**SMALL, "image_size": 8, "patch_size": 4, "num_channels": 3}
SWIN = {"image_size": 16, "patch_size": 2, "embed_dim": 8, "depths": [1, 1], "num_heads": [2, 2], "window_size": 2}


class Logits(nn.Module):
    """One tensor of a model's output."""

    def __init__(self, model: nn.Module, leaf: str = "") -> None:
        super().__init__()
        self.model, self.leaf = model, leaf

    def forward(self, x: Tensor, **more: Tensor) -> Tensor:
        made = self.model(x, **more)
        return made[self.leaf] if self.leaf else made[0]


class EncoderDecoder(nn.Module):
    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, source: Tensor, target: Tensor) -> Tensor:
        return self.model(input_ids=source, decoder_input_ids=target, use_cache=False).logits


def _made(model: str, config: str, **settings: Any) -> Callable[[], nn.Module]:
    def make() -> nn.Module:
        import transformers  # optional: whoever has none skips these nets

        return getattr(transformers, model)(getattr(transformers, config)(**settings))

    return make


def _text(model: str, config: str, **settings: Any) -> Entry:
    return Entry(lambda: Logits(_made(model, config, **settings)()), tokens(6, 30))


def _image(model: str, config: str, side: int = 8, **settings: Any) -> Entry:
    return Entry(lambda: Logits(_made(model, config, **settings)()), lambda n: torch.randn(n, 3, side, side))


def _pair(model: str, config: str, **settings: Any) -> Entry:
    make = _made(model, config, **settings)
    return Entry(lambda: EncoderDecoder(make()), lambda n: (tokens(6, 30)(n), tokens(4, 30)(n)))


def _attended(n: int) -> dict[str, Tensor]:
    mask = torch.ones(n, 6, dtype=torch.long)
    mask[0, 4:] = 0
    return {"x": torch.randint(3, 30, (n, 6)), "attention_mask": mask}


KV = {"num_key_value_heads": 1, "use_cache": False}
HUGGING_FACE: dict[str, Entry] = {
    "BERT": _text("BertModel", "BertConfig", **SMALL),
    "BERT, with a mask": Entry(lambda: Logits(_made("BertModel", "BertConfig", **SMALL)()), _attended),
    "BERT for classes": _text("BertForSequenceClassification", "BertConfig", **SMALL),
    "BERT, masked LM": _text("BertForMaskedLM", "BertConfig", **SMALL),
    "RoBERTa": _text("RobertaModel", "RobertaConfig", **SMALL),
    "DistilBERT": _text(
        "DistilBertModel", "DistilBertConfig", vocab_size=32, dim=16, n_layers=1, n_heads=2, hidden_dim=24
    ),
    "ALBERT": _text("AlbertModel", "AlbertConfig", **{**SMALL, "num_hidden_layers": 2, "embedding_size": 8}),
    "ELECTRA": _text("ElectraModel", "ElectraConfig", **SMALL, embedding_size=8),
    "DeBERTa": _text(
        "DebertaV2Model", "DebertaV2Config", **SMALL, relative_attention=True, pos_att_type=["p2c", "c2p"]
    ),
    "GPT-2": _text("GPT2LMHeadModel", "GPT2Config", **GPT2, use_cache=False),
    "GPT-2, with its cache": Entry(lambda: _made("GPT2LMHeadModel", "GPT2Config", **GPT2)(), tokens(6, 30)),
    "GPT-NeoX": _text("GPTNeoXForCausalLM", "GPTNeoXConfig", **SMALL, use_cache=False),
    "OPT": _text(
        "OPTForCausalLM",
        "OPTConfig",
        vocab_size=32,
        hidden_size=16,
        num_hidden_layers=1,
        ffn_dim=24,
        max_position_embeddings=32,
        num_attention_heads=2,
        word_embed_proj_dim=16,
        use_cache=False,
    ),
    "BLOOM": _text(
        "BloomForCausalLM", "BloomConfig", vocab_size=32, hidden_size=16, n_layer=1, n_head=2, use_cache=False
    ),
    "Llama": _text("LlamaForCausalLM", "LlamaConfig", **SMALL, **KV),
    "Mistral": _text("MistralForCausalLM", "MistralConfig", **SMALL, **KV),
    "Mixtral": _text("MixtralForCausalLM", "MixtralConfig", **SMALL, **KV, num_local_experts=2),
    "Qwen2": _text("Qwen2ForCausalLM", "Qwen2Config", **SMALL, **KV),
    "Gemma": _text("GemmaForCausalLM", "GemmaConfig", **SMALL, **KV, head_dim=8),
    "Phi": _text("PhiForCausalLM", "PhiConfig", **SMALL, use_cache=False),
    "Mamba": _text(
        "MambaForCausalLM",
        "MambaConfig",
        vocab_size=32,
        hidden_size=16,
        num_hidden_layers=1,
        state_size=4,
        use_cache=False,
    ),
    "T5": _pair("T5ForConditionalGeneration", "T5Config", **T5),
    "BART": _pair("BartForConditionalGeneration", "BartConfig", **BART),
    "ViT of transformers": _image("ViTForImageClassification", "ViTConfig", **VIT),
    "DeiT": _image("DeiTForImageClassification", "DeiTConfig", **VIT),
    "BEiT": _image("BeitForImageClassification", "BeitConfig", **VIT),
    "DINOv2": _image("Dinov2Model", "Dinov2Config", **VIT, mlp_ratio=2),
    "Swin of transformers": _image("SwinForImageClassification", "SwinConfig", 16, **SWIN),
    "ResNet of transformers": _image(
        "ResNetForImageClassification",
        "ResNetConfig",
        embedding_size=8,
        hidden_sizes=[8, 16],
        depths=[1, 1],
        layer_type="basic",
    ),
    "ConvNeXt of transformers": _image(
        "ConvNextForImageClassification", "ConvNextConfig", 32, hidden_sizes=[8, 16], depths=[1, 1], num_stages=2
    ),
    "MobileNet v2 of transformers": _image(
        "MobileNetV2ForImageClassification", "MobileNetV2Config", 32, depth_multiplier=0.1, min_depth=4
    ),
    "SegFormer": _image(
        "SegformerForSemanticSegmentation",
        "SegformerConfig",
        32,
        hidden_sizes=[8, 8, 8, 8],
        depths=[1, 1, 1, 1],
        num_attention_heads=[1, 1, 2, 2],
        decoder_hidden_size=8,
    ),
    "wav2vec 2": Entry(
        lambda: Logits(
            _made(
                "Wav2Vec2Model",
                "Wav2Vec2Config",
                **SMALL,
                conv_dim=[8, 8],
                conv_stride=[2, 2],
                conv_kernel=[3, 3],
                num_conv_pos_embeddings=4,
                num_conv_pos_embedding_groups=2,
                mask_time_prob=0.0,
                layerdrop=0.0,
            )()
        ),
        lambda n: torch.randn(n, 40),
    ),
    "CLIP text": _text("CLIPTextModel", "CLIPTextConfig", **SMALL, projection_dim=8),
}
