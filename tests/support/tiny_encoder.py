"""BERTs of random weights, small enough for a test: model(FOLDER, labels, seed) writes one as Hugging Face has them."""
import json
import math
import os
import random
import struct

WORDS = "the cat dog sat on mat tree river stone runs sleeps loves fears big small red blue old new".split()
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
WIDTH, LAYERS, FFN, CONTEXT = 32, 2, 64, 64


def tokenizer():
    vocab = {t: i for i, t in enumerate(SPECIAL + WORDS + [f"##{c}" for c in "abcdefghijklmnopqrstuvwxyz"] + list("abcdefghijklmnopqrstuvwxyz"))}
    added = [{"id": i, "content": t, "single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True} for i, t in enumerate(SPECIAL)]
    one, two = {"SpecialToken": {"id": "[CLS]", "type_id": 0}}, {"SpecialToken": {"id": "[SEP]", "type_id": 0}}
    return vocab, {
        "version": "1.0", "truncation": None, "padding": None, "added_tokens": added,
        "normalizer": {"type": "BertNormalizer", "clean_text": True, "handle_chinese_chars": True, "strip_accents": None, "lowercase": True},
        "pre_tokenizer": {"type": "BertPreTokenizer"},
        "post_processor": {"type": "TemplateProcessing", "single": [one, {"Sequence": {"id": "A", "type_id": 0}}, two],
                           "pair": [one, {"Sequence": {"id": "A", "type_id": 0}}, two, {"Sequence": {"id": "B", "type_id": 1}}, {"SpecialToken": {"id": "[SEP]", "type_id": 1}}],
                           "special_tokens": {t: {"id": t, "ids": [vocab[t]], "tokens": [t]} for t in ("[CLS]", "[SEP]")}},
        "decoder": {"type": "WordPiece", "prefix": "##", "cleanup": True},
        "model": {"type": "WordPiece", "unk_token": "[UNK]", "continuing_subword_prefix": "##", "max_input_chars_per_word": 100, "vocab": vocab}}


def safetensors(path, shapes, seed, zeros=()):
    chance, header, data, at = random.Random(seed), {}, b"", 0
    for name, shape in shapes.items():
        n = math.prod(shape)
        norm = name.endswith("LayerNorm.weight")
        values = bytes(4 * n) if name in zeros else struct.pack(f"<{n}f", *(chance.gauss(1 if norm else 0, 0.02 if norm else 0.3) for _ in range(n)))
        header[name] = {"dtype": "F32", "shape": list(shape), "data_offsets": [at, at + len(values)]}
        data, at = data + values, at + len(values)
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as f:
        f.write(struct.pack("<Q", len(text)) + text + data)


def model(folder, labels, seed, flat=False):
    """A BERT with random weights; with a classifier where there are labels. flat: its last norm takes everything away but its bias, so that all texts are one."""
    os.makedirs(folder)
    vocab, file = tokenizer()
    prefix = "bert." if labels else ""
    shapes = {"embeddings.word_embeddings.weight": (len(vocab), WIDTH), "embeddings.position_embeddings.weight": (CONTEXT, WIDTH), "embeddings.token_type_embeddings.weight": (2, WIDTH),
              "embeddings.LayerNorm.weight": (WIDTH,), "embeddings.LayerNorm.bias": (WIDTH,), "pooler.dense.weight": (WIDTH, WIDTH), "pooler.dense.bias": (WIDTH,)}
    for i in range(LAYERS):
        layer = f"encoder.layer.{i}."
        for name, out, into in (("attention.self.query", WIDTH, WIDTH), ("attention.self.key", WIDTH, WIDTH), ("attention.self.value", WIDTH, WIDTH), ("attention.output.dense", WIDTH, WIDTH),
                                ("intermediate.dense", FFN, WIDTH), ("output.dense", WIDTH, FFN)):
            shapes[f"{layer}{name}.weight"], shapes[f"{layer}{name}.bias"] = (out, into), (out,)
        for name in ("attention.output.LayerNorm", "output.LayerNorm"):
            shapes[f"{layer}{name}.weight"], shapes[f"{layer}{name}.bias"] = (WIDTH,), (WIDTH,)
    shapes = {prefix + k: v for k, v in shapes.items()}
    if labels:
        shapes["classifier.weight"], shapes["classifier.bias"] = (len(labels), WIDTH), (len(labels),)
    safetensors(os.path.join(folder, "model.safetensors"), shapes, seed, [f"encoder.layer.{LAYERS - 1}.output.LayerNorm.weight"] if flat else ())
    config = {"architectures": ["BertForSequenceClassification" if labels else "BertModel"], "model_type": "bert", "hidden_size": WIDTH, "num_hidden_layers": LAYERS, "num_attention_heads": 2,
              "intermediate_size": FFN, "max_position_embeddings": CONTEXT, "type_vocab_size": 2, "vocab_size": len(vocab), "pad_token_id": 0, "hidden_act": "gelu", "layer_norm_eps": 1e-12}
    if labels:
        config["id2label"] = {str(i): name for i, name in enumerate(labels)}
    for name, what in (("config.json", config), ("tokenizer.json", file), ("tokenizer_config.json", {"cls_token": "[CLS]", "sep_token": "[SEP]", "pad_token": "[PAD]"})):
        with open(os.path.join(folder, name), "w", encoding="utf-8") as f:
            json.dump(what, f)
