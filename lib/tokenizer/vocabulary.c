/* GGUF's vocabularies, said again as tokenizer.json, and read by the one reader of that. */
#include "tokenizer/vocabulary.h"

#include "base/alloc.h"
#include "tokenizer/internal.h"
#include "tokenizer/vocabulary_write.h"

enum { TEXT_MAX = 64 << 20 }; /* what tokenizer_parse takes */

void vocabulary_init(struct vocabulary *v) {
    *v = (struct vocabulary){.bos = TOKEN_NONE, .eos = TOKEN_NONE, .unk = TOKEN_NONE, .pad = TOKEN_NONE, .sep = TOKEN_NONE, .cls = TOKEN_NONE, .mask = TOKEN_NONE,
                             .add_bos = -1, .add_eos = -1, .add_sep = -1, .add_space_prefix = -1, .remove_extra_whitespaces = -1,
                             .lowercase = -1, .strip_accents = -1};
}

static int32_t type_of(const struct vocabulary *v, size_t id) { return v->types ? v->types[id] : VOCABULARY_NORMAL; }

/* ---- byte-level BPE: how `pre` cuts ---- */

#define ISOLATED(regex) "{\"type\":\"Split\",\"pattern\":{\"Regex\":\"" regex "\"},\"behavior\":\"Isolated\",\"invert\":false}"
#define BYTES "{\"type\":\"ByteLevel\",\"add_prefix_space\":false,\"trim_offsets\":true,\"use_regex\":false}"
#define GPT2 "{\"type\":\"ByteLevel\",\"add_prefix_space\":false,\"trim_offsets\":true,\"use_regex\":true}"
#define SEQUENCE(steps) "{\"type\":\"Sequence\",\"pretokenizers\":[" steps "]}"
#define TAIL "| ?[^\\\\s\\\\p{L}\\\\p{N}]+[\\\\r\\\\n]*|\\\\s*[\\\\r\\\\n]+|\\\\s+(?!\\\\S)|\\\\s+"
#define HEAD "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\\\r\\\\n\\\\p{L}\\\\p{N}]?\\\\p{L}+|"
#define UPPER "[\\\\p{Lu}\\\\p{Lt}\\\\p{Lm}\\\\p{Lo}\\\\p{M}]"
#define LOWER "[\\\\p{Ll}\\\\p{Lm}\\\\p{Lo}\\\\p{M}]"
#define CASED(tail, digits)                                                                                                                             \
    "[^\\\\r\\\\n\\\\p{L}\\\\p{N}]?" UPPER "*" LOWER "+" tail "|[^\\\\r\\\\n\\\\p{L}\\\\p{N}]?" UPPER "+" LOWER "*" tail "|" digits                       \
    "| ?[^\\\\s\\\\p{L}\\\\p{N}]+[\\\\r\\\\n/]*|\\\\s*[\\\\r\\\\n]+|\\\\s+(?!\\\\S)|\\\\s+"
#define LLAMA3 SEQUENCE(ISOLATED(HEAD "\\\\p{N}{1,3}" TAIL) "," BYTES)
#define QWEN2 SEQUENCE(ISOLATED(HEAD "\\\\p{N}" TAIL) "," BYTES)
#define DIGITS SEQUENCE("{\"type\":\"Digits\",\"individual_digits\":true}," GPT2)
#define BLOOM " ?[^(\\\\s|.,!?…。，、।۔،)]+"

static const struct pre {
    const char *name, *json;
    bool ignore_merges, add_bos, nfc;
} pres[] = {
    {"gpt-2", GPT2, false, false, false},
    {"mpt", GPT2, false, false, false},
    {"olmo", GPT2, false, false, false},
    {"jais", GPT2, false, false, false},
    {"phi-2", GPT2, false, false, false},
    {"roberta-bpe", GPT2, false, true, false},
    {"jina-v2-code", GPT2, false, true, false},
    {"llama-bpe", LLAMA3, true, true, false},
    {"llama3", LLAMA3, true, true, false},
    {"llama-v3", LLAMA3, true, true, false},
    {"falcon3", LLAMA3, true, true, false},
    {"smaug-bpe", LLAMA3, false, false, false},
    {"dbrx", LLAMA3, false, false, false},
    {"chatglm-bpe", LLAMA3, false, false, false},
    {"qwen2", QWEN2, false, false, true},
    {"deepseek-r1-qwen", QWEN2, false, false, true},
    {"stablelm2", QWEN2, false, false, false},
    {"hunyuan", QWEN2, false, false, false},
    {"smollm", DIGITS, false, false, false},
    {"starcoder", DIGITS, false, false, false},
    {"refact", DIGITS, false, false, false},
    {"command-r", DIGITS, false, false, true},
    {"codeshell", DIGITS, false, false, false},
    {"exaone", DIGITS, false, false, false},
    {"minerva-7b", DIGITS, false, false, false},
    {"gpt-4o", SEQUENCE(ISOLATED(CASED("(?i:'s|'t|'re|'ve|'m|'ll|'d)?", "\\\\p{N}{1,3}")) "," BYTES), false, false, false},
    {"llama4", SEQUENCE(ISOLATED(CASED("(?i:'s|'t|'re|'ve|'m|'ll|'d)?", "\\\\p{N}{1,3}")) "," BYTES), false, false, false},
    {"tekken", SEQUENCE(ISOLATED(CASED("", "\\\\p{N}")) "," BYTES), true, true, false},
    {"deepseek-v3", SEQUENCE(ISOLATED("\\\\p{N}{1,3}") "," ISOLATED("[一-龥぀-ゟ゠-ヿ]+") "," ISOLATED(
        "[!\\\"#$%&'()*+,\\\\-./:;<=>?@\\\\[\\\\\\\\\\\\]^_`{|}~][A-Za-z]+|[^\\r\\n\\\\p{L}\\\\p{P}\\\\p{S}]?[\\\\p{L}\\\\p{M}]+| ?[\\\\p{P}\\\\p{S}]+[\\r\\n]*|\\\\s*[\\r\\n]+|\\\\s+(?!\\\\S)|\\\\s+") "," BYTES), false, true, false},
    {"falcon", SEQUENCE(ISOLATED("[\\\\p{P}$+<=>^~|`]+") "," ISOLATED("'s|'t|'re|'ve|'m|'ll|'d| ?\\\\p{L}+| ?\\\\p{N}+| ?[^\\\\s\\\\p{L}\\\\p{N}]+|\\\\s+(?!\\\\S)|\\\\s+") "," ISOLATED("[0-9][0-9][0-9]") "," BYTES), false, false, false},
    {"bloom", SEQUENCE(ISOLATED(BLOOM) "," BYTES), false, false, false},
    {"poro-chat", SEQUENCE(ISOLATED(BLOOM) "," BYTES), false, false, false},
    {"viking", SEQUENCE(ISOLATED(BLOOM) "," ISOLATED("\\\\p{N}") "," BYTES), false, false, false},
    /* What llama.cpp does where a file names none. */
    {"default", SEQUENCE(ISOLATED("[\\\\p{P}$+<=>^~|]+") "," ISOLATED("'s|'t|'re|'ve|'m|'ll|'d| ?\\\\p{L}+| ?\\\\p{N}+| ?[^\\\\s\\\\p{L}\\\\p{N}]+|\\\\s+(?!\\\\S)|\\\\s+") "," ISOLATED("\\\\p{N}+") "," ISOLATED("[0-9][0-9][0-9]") "," BYTES), false, false, false},
};

const char *vocabulary_pre_at(size_t i, const char **json, bool *ignore_merges, bool *nfc) {
    if (i >= sizeof pres / sizeof *pres) return NULL;
    *json = pres[i].json;
    *ignore_merges = pres[i].ignore_merges;
    *nfc = pres[i].nfc;
    return pres[i].name;
}

/* ---- SentencePiece's BPE has scores instead of merges: those of every way to make a token of two others, best score first ---- */

struct made {
    uint32_t left, right; /* ids */
    uint32_t order;       /* among the found ones: the sort is stable by it */
    uint16_t left_len, right_len; /* characters */
    float score;
};
static int by_score(const void *a, const void *b) {
    const struct made *x = a, *y = b;
    if (x->score != y->score) return x->score > y->score ? -1 : 1;
    if (x->left_len != y->left_len) return x->left_len > y->left_len ? -1 : 1;
    if (x->right_len != y->right_len) return x->right_len > y->right_len ? -1 : 1;
    return x->order < y->order ? -1 : 1;
}

static uint32_t trie_find(const struct trie *t, struct span s) {
    uint32_t node = 0;
    for (size_t i = 0; i < s.len; i++)
        if (!(node = trie_step(t, node, (uint8_t)s.data[i]))) return TOKEN_NONE;
    return node && t->ids[node] ? t->ids[node] - 1 : TOKEN_NONE;
}

static int find_merges(const struct vocabulary *v, const struct span *texts, struct made **merges, size_t *count, struct error *err) {
    struct trie trie = {.count = 0};
    struct made *list = NULL;
    size_t n = 0, capacity = 0;
    int r = 0;
    for (size_t i = 0; !r && i < v->count; i++)
        if (type_of(v, i) == VOCABULARY_NORMAL || type_of(v, i) == VOCABULARY_USER_DEFINED) r = token_trie_add(&trie, texts[i], (uint32_t)i, err);
    for (size_t i = 0; !r && i < v->count; i++) {
        if (type_of(v, i) != VOCABULARY_NORMAL && type_of(v, i) != VOCABULARY_USER_DEFINED) continue;
        struct span s = texts[i];
        size_t first = n, at = 0, chars = 0, total = 0, len;
        for (size_t k = 0; k < s.len; k++) total += ((uint8_t)s.data[k] & 0xC0) != 0x80;
        uint32_t node = 0;
        while (at < s.len) {
            (void)char_at(s.data + at, s.len - at, &len);
            for (size_t k = 0; k < len; k++) node = trie_step(&trie, node, (uint8_t)s.data[at + k]);
            at += len;
            chars++;
            if (at >= s.len || !node) break;
            uint32_t left = trie.ids[node], right = left ? trie_find(&trie, span_skip(s, at)) : TOKEN_NONE;
            if (right == TOKEN_NONE) continue;
            r = array_reserve(&list, &capacity, n + 1, sizeof list[0]);
            if (r) {
                error_set(err, r, "no memory for the tokenizer");
                break;
            }
            list[n++] = (struct made){left - 1, right, 0, (uint16_t)chars, (uint16_t)(total - chars), v->scores ? v->scores[i] : -(float)i};
        }
        /* of one token's: by the ids of the parts; there are few, so an insertion sort */
        for (size_t k = first + 1; k < n; k++) {
            struct made m = list[k];
            size_t j = k;
            for (; j > first && (list[j - 1].left > m.left || (list[j - 1].left == m.left && list[j - 1].right > m.right)); j--) list[j] = list[j - 1];
            list[j] = m;
        }
        if (n > TOKENIZER_VOCAB_MAX && !r) r = error_set(err, E_TOO_LARGE, "the vocabulary's scores make more than %d merges", TOKENIZER_VOCAB_MAX);
    }
    for (size_t i = 0; i < n; i++) list[i].order = (uint32_t)i;
    if (!r && n) qsort(list, n, sizeof list[0], by_score);
    token_trie_fini(&trie);
    if (r) {
        mem_free(list);
        return r;
    }
    *merges = list;
    *count = n;
    return 0;
}

/* ---- writing the stages ---- */

static void put_added(struct json_out *w, const struct vocabulary *v, const struct span *texts) {
    json_key(w, "added_tokens");
    json_array(w);
    for (size_t i = 0; i < v->count; i++) {
        int32_t type = type_of(v, i);
        bool named = i == v->bos || i == v->eos || i == v->pad || i == v->cls || i == v->sep || i == v->mask || i == v->unk;
        bool special = type == VOCABULARY_CONTROL || type == VOCABULARY_UNKNOWN || (named && !v->types);
        /* One whose text is not as the model has it (runs of spaces in Gemma's) comes to be by merges. */
        if (!(special || type == VOCABULARY_USER_DEFINED) || !v->tokens[i].len || !span_eq(v->tokens[i], texts[i])) continue;
        json_object(w);
        json_num(w, "id", (int64_t)i);
        json_span(w, "content", v->tokens[i]);
        json_flag(w, "single_word", false);
        json_flag(w, "lstrip", special && i == v->mask);
        json_flag(w, "rstrip", false);
        json_flag(w, "normalized", false);
        json_flag(w, "special", special);
        json_object_end(w);
    }
    json_array_end(w);
}

static void put_item(struct json_out *w, const char *kind, struct span id, int type) {
    json_object(w);
    json_key(w, kind);
    json_object(w);
    json_span(w, "id", id);
    json_num(w, "type_id", type);
    json_object_end(w);
    json_object_end(w);
}

/* bos and eos around one text and a pair: as BERT, as RoBERTa, or what decoders have. */
static void put_template(struct json_out *w, const struct vocabulary *v, uint32_t bos, uint32_t eos, bool bert) {
    json_key(w, "post_processor");
    if (bos == TOKEN_NONE && eos == TOKEN_NONE) {
        json_put_null(w);
        return;
    }
    bool both = bos != TOKEN_NONE && eos != TOKEN_NONE;
    struct span b = bos == TOKEN_NONE ? SPAN("") : v->tokens[bos], e = eos == TOKEN_NONE ? SPAN("") : v->tokens[eos];
    json_object(w);
    json_str(w, "type", "TemplateProcessing");
    for (int pair = 0; pair < 2; pair++) {
        int type = bert || eos == TOKEN_NONE ? 1 : 0; /* of the second text */
        json_key(w, pair ? "pair" : "single");
        json_array(w);
        if (b.len) put_item(w, "SpecialToken", b, 0);
        put_item(w, "Sequence", SPAN("A"), 0);
        if (e.len) put_item(w, "SpecialToken", e, 0);
        if (pair) {
            if (both && !bert) put_item(w, "SpecialToken", e, 0);
            else if (b.len && !both) put_item(w, "SpecialToken", b, type);
            put_item(w, "Sequence", SPAN("B"), type);
            if (e.len) put_item(w, "SpecialToken", e, type);
        }
        json_array_end(w);
    }
    json_key(w, "special_tokens");
    json_object(w);
    for (int i = 0; i < 2; i++) {
        uint32_t id = i ? eos : bos;
        if (id == TOKEN_NONE || (i && eos == bos)) continue;
        json_key_span(w, v->tokens[id]);
        json_object(w);
        json_span(w, "id", v->tokens[id]);
        json_key(w, "ids");
        json_array(w);
        json_put_uint(w, id);
        json_array_end(w);
        json_key(w, "tokens");
        json_array(w);
        json_put_span(w, v->tokens[id]);
        json_array_end(w);
        json_object_end(w);
    }
    json_object_end(w);
    json_object_end(w);
}

static void put_vocab(struct json_out *w, const struct vocabulary *v, const struct span *texts) {
    json_key(w, "vocab");
    json_object(w);
    for (size_t i = 0; i < v->count; i++) {
        json_key_span(w, texts[i]);
        json_put_uint(w, i);
    }
    json_object_end(w);
}

static void put_gpt2(struct json_out *w, const struct vocabulary *v, const struct span *texts, const struct pre *pre) {
    json_key(w, "normalizer");
    if (pre->nfc) json_put_raw(w, SPAN("{\"type\":\"NFC\"}"));
    else json_put_null(w);
    json_key(w, "pre_tokenizer");
    json_put_raw(w, span_str(pre->json));
    json_key(w, "decoder");
    json_put_raw(w, SPAN("{\"type\":\"ByteLevel\",\"add_prefix_space\":true,\"trim_offsets\":true,\"use_regex\":true}"));
    json_key(w, "model");
    json_object(w);
    json_str(w, "type", "BPE");
    json_flag(w, "ignore_merges", pre->ignore_merges);
    put_vocab(w, v, texts);
    json_key(w, "merges");
    json_array(w);
    for (size_t i = 0; i < v->merge_count; i++) json_put_span(w, v->merges[i]);
    json_array_end(w);
    json_object_end(w);
}

static int put_llama(struct json_out *w, const struct vocabulary *v, const struct span *texts, struct error *err) {
    struct made *merges = NULL;
    size_t count = 0;
    bool prefix = v->add_space_prefix != 0;
    int r = find_merges(v, texts, &merges, &count, err);
    if (r) return r;
    json_key(w, "normalizer");
    json_put_raw(w, prefix ? SPAN("{\"type\":\"Sequence\",\"normalizers\":[{\"type\":\"Prepend\",\"prepend\":\"▁\"},{\"type\":\"Replace\",\"pattern\":{\"String\":\" \"},\"content\":\"▁\"}]}")
                           : SPAN("{\"type\":\"Replace\",\"pattern\":{\"String\":\" \"},\"content\":\"▁\"}"));
    json_key(w, "pre_tokenizer");
    json_put_null(w);
    json_key(w, "decoder");
#define BACK "{\"type\":\"Sequence\",\"decoders\":[{\"type\":\"Replace\",\"pattern\":{\"String\":\"▁\"},\"content\":\" \"},{\"type\":\"ByteFallback\"},{\"type\":\"Fuse\"}"
    json_put_raw(w, prefix ? SPAN(BACK ",{\"type\":\"Strip\",\"content\":\" \",\"start\":1,\"stop\":0}]}") : SPAN(BACK "]}"));
    json_key(w, "model");
    json_object(w);
    json_str(w, "type", "BPE");
    json_key(w, "unk_token");
    if (v->unk == TOKEN_NONE) json_put_null(w);
    else json_put_span(w, texts[v->unk]);
    json_flag(w, "fuse_unk", true);
    json_flag(w, "byte_fallback", true);
    json_flag(w, "ignore_merges", false);
    put_vocab(w, v, texts);
    json_key(w, "merges");
    json_array(w);
    for (size_t i = 0; i < count; i++) {
        json_array(w);
        json_put_span(w, texts[merges[i].left]);
        json_put_span(w, texts[merges[i].right]);
        json_array_end(w);
    }
    json_array_end(w);
    json_object_end(w);
    mem_free(merges);
    return 0;
}

static void put_bert(struct json_out *w, const struct vocabulary *v, const struct span *texts) {
    /* Where the file does not say whether it wants lower case, a vocabulary without a capital does. */
    bool capitals = false;
    for (size_t i = 0; !capitals && i < v->count; i++)
        for (size_t k = 0; type_of(v, i) == VOCABULARY_NORMAL && k < texts[i].len; k++) capitals |= texts[i].data[k] >= 'A' && texts[i].data[k] <= 'Z' && texts[i].data[0] != '[';
    json_key(w, "normalizer");
    json_object(w);
    json_str(w, "type", "BertNormalizer");
    json_flag(w, "clean_text", true);
    json_flag(w, "handle_chinese_chars", true);
    if (v->strip_accents >= 0) json_flag(w, "strip_accents", v->strip_accents > 0);
    else {
        json_key(w, "strip_accents");
        json_put_null(w);
    }
    json_flag(w, "lowercase", v->lowercase >= 0 ? v->lowercase > 0 : !capitals);
    json_object_end(w);
    json_key(w, "pre_tokenizer");
    json_put_raw(w, SPAN("{\"type\":\"BertPreTokenizer\"}"));
    json_key(w, "decoder");
    json_put_raw(w, SPAN("{\"type\":\"WordPiece\",\"prefix\":\"##\",\"cleanup\":true}"));
    json_key(w, "model");
    json_object(w);
    json_str(w, "type", "WordPiece");
    json_key(w, "unk_token");
    if (v->unk == TOKEN_NONE) json_put_null(w);
    else json_put_span(w, texts[v->unk]);
    json_str(w, "continuing_subword_prefix", "##");
    json_num(w, "max_input_chars_per_word", 100);
    put_vocab(w, v, texts);
    json_object_end(w);
}

static void put_base64(struct json_out *w, struct span s) {
    static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    struct buf text;
    buf_init(&text, TEXT_MAX);
    for (size_t i = 0; i < s.len; i += 3) {
        uint32_t n = (uint32_t)(uint8_t)s.data[i] << 16 | (i + 1 < s.len ? (uint32_t)(uint8_t)s.data[i + 1] << 8 : 0) | (i + 2 < s.len ? (uint8_t)s.data[i + 2] : 0u);
        char c[4] = {digits[n >> 18], digits[n >> 12 & 63], i + 1 < s.len ? digits[n >> 6 & 63] : '=', i + 2 < s.len ? digits[n & 63] : '='};
        buf_append(&text, c, 4);
    }
    if (text.failed && !w->out->failed) w->out->failed = text.failed;
    json_put_span(w, buf_span(&text));
    buf_fini(&text);
}

static void put_unigram(struct json_out *w, const struct vocabulary *v, const struct span *texts) {
    bool fallback = false;
    for (size_t i = 0; i < v->count; i++) fallback |= type_of(v, i) == VOCABULARY_BYTE;
    json_key(w, "normalizer");
    json_object(w);
    json_str(w, "type", "Sequence");
    json_key(w, "normalizers");
    json_array(w);
    if (v->charsmap.len) {
        json_object(w);
        json_str(w, "type", "Precompiled");
        json_key(w, "precompiled_charsmap");
        put_base64(w, v->charsmap);
        json_object_end(w);
    }
    if (v->remove_extra_whitespaces != 0) {
        json_put_raw(w, SPAN("{\"type\":\"Strip\",\"strip_left\":false,\"strip_right\":true}"));
        json_put_raw(w, SPAN("{\"type\":\"Replace\",\"pattern\":{\"Regex\":\" {2,}\"},\"content\":\" \"}"));
    }
    json_array_end(w);
    json_object_end(w);
    const struct span metaspace = v->add_space_prefix != 0 ? SPAN("{\"type\":\"Metaspace\",\"replacement\":\"▁\",\"prepend_scheme\":\"always\",\"split\":true}")
                                                           : SPAN("{\"type\":\"Metaspace\",\"replacement\":\"▁\",\"prepend_scheme\":\"never\",\"split\":true}");
    json_key(w, "pre_tokenizer");
    if (v->remove_extra_whitespaces != 0) {
        json_object(w);
        json_str(w, "type", "Sequence");
        json_key(w, "pretokenizers");
        json_array(w);
        json_put_raw(w, SPAN("{\"type\":\"WhitespaceSplit\"}"));
        json_put_raw(w, metaspace);
        json_array_end(w);
        json_object_end(w);
    } else {
        json_put_raw(w, metaspace);
    }
    json_key(w, "decoder");
    json_put_raw(w, metaspace);
    json_key(w, "model");
    json_object(w);
    json_str(w, "type", "Unigram");
    json_key(w, "unk_id");
    if (v->unk == TOKEN_NONE) json_put_null(w);
    else json_put_uint(w, v->unk);
    json_key(w, "vocab");
    json_array(w);
    for (size_t i = 0; i < v->count; i++) {
        json_array(w);
        json_put_span(w, texts[i]);
        json_put_real(w, v->scores ? (double)v->scores[i] : 0);
        json_array_end(w);
    }
    json_array_end(w);
    json_flag(w, "byte_fallback", fallback);
    json_object_end(w);
}

/* The texts as tokenizer.json has them. */
static int model_texts(const struct vocabulary *v, bool bert, bool llama, struct arena *arena, struct span **texts, struct error *err) {
    const struct span bar = SPAN("\xE2\x96\x81");
    struct span *list = arena_calloc(arena, v->count + 1, sizeof list[0]);
    if (!list) return error_set(err, E_NOMEM, "no memory for the tokenizer");
    for (size_t i = 0; i < v->count; i++) {
        struct span s = v->tokens[i];
        if (!span_is_utf8(s)) return error_set(err, E_INVALID, "tokenizer.ggml.tokens: token %zu is no UTF-8", i);
        if (s.len > TOKENIZER_TOKEN_BYTES_MAX) return error_set(err, E_TOO_LARGE, "tokenizer.ggml.tokens: token %zu is longer than %d bytes", i, TOKENIZER_TOKEN_BYTES_MAX);
        list[i] = s;
        int32_t type = type_of(v, i);
        bool plain = type == VOCABULARY_NORMAL || type == VOCABULARY_UNUSED || type == VOCABULARY_USER_DEFINED;
        if (bert && plain) { /* "##" was taken away from parts, and U+2581 put before words */
            if (span_starts(s, bar)) list[i] = span_skip(s, bar.len);
            else if (!(s.len > 2 && s.data[0] == '[' && s.data[s.len - 1] == ']')) {
                char *text = arena_printf(arena, "##%.*s", SPAN_ARG(s));
                if (!text) return error_set(err, E_NOMEM, "no memory for the tokenizer");
                list[i] = span_of(text, s.len + 2);
            }
        } else if (llama && plain && span_find_char(s, ' ') >= 0) {
            struct normalized n;
            normalized_init(&n, false);
            int r = 0;
            for (size_t k = 0; !r && k < s.len; k++) r = s.data[k] == ' ' ? normalized_put(&n, bar, k, k + 1) : normalized_keep(&n, s, k, k + 1);
            list[i] = r ? (struct span){NULL, 0} : arena_span(arena, buf_span(&n.text));
            normalized_fini(&n);
            if (!list[i].data) return error_set(err, E_NOMEM, "no memory for the tokenizer");
        }
    }
    *texts = list;
    return 0;
}

/* Ids of a Unigram vocabulary that the file does not name, as its other readers take them: 0 fills, 1 ends, 2 is what is not known. */
static uint32_t named_or(const struct vocabulary *v, uint32_t id, uint32_t otherwise, int32_t type) {
    return id != TOKEN_NONE || !v->types || otherwise >= v->count || v->types[otherwise] != type ? id : otherwise;
}

int tokenizer_from_vocabulary(const struct vocabulary *given, struct tokenizer **out, struct error *err) {
    struct vocabulary all = *given;
    const struct vocabulary *v = &all;
    const bool gpt2 = span_eq_str(v->model, "gpt2"), llama = span_eq_str(v->model, "llama"), bert = span_eq_str(v->model, "bert"), t5 = span_eq_str(v->model, "t5");
    if (t5) {
        all.pad = named_or(v, v->pad, 0, VOCABULARY_CONTROL);
        all.eos = named_or(v, v->eos, 1, VOCABULARY_CONTROL);
        all.unk = named_or(v, v->unk, 2, VOCABULARY_UNKNOWN);
    }
    const uint32_t ids[] = {v->bos, v->eos, v->unk, v->pad, v->sep, v->cls, v->mask};
    const struct pre *pre = NULL;
    if (!gpt2 && !llama && !bert && !t5) return error_set(err, E_UNSUPPORTED, "tokenizer.ggml.model \"%.*s\" is not built", SPAN_ARG(span_sub(v->model, 0, 60)));
    if (!v->count || v->count > TOKENIZER_VOCAB_MAX) return error_set(err, E_INVALID, "tokenizer.ggml.tokens has none, or more than %d", TOKENIZER_VOCAB_MAX);
    for (size_t i = 0; i < sizeof ids / sizeof ids[0]; i++)
        if (ids[i] != TOKEN_NONE && (ids[i] >= v->count || !v->tokens[ids[i]].len)) return error_set(err, E_INVALID, "tokenizer.ggml: the special id %u is no token", ids[i]);
    for (size_t i = 0; gpt2 && !pre && i < sizeof pres / sizeof pres[0]; i++)
        if (span_eq(v->pre.len ? v->pre : SPAN("default"), span_str(pres[i].name))) pre = &pres[i];
    if (gpt2 && !pre) return error_set(err, E_UNSUPPORTED, "tokenizer.ggml.pre \"%.*s\" is not built", SPAN_ARG(span_sub(v->pre, 0, 60)));

    struct arena arena;
    struct buf text;
    struct span *texts = NULL;
    struct json_out w;
    struct tokenizer *t = NULL;
    arena_init(&arena, (size_t)1 << 30);
    buf_init(&text, TEXT_MAX);
    int r = model_texts(v, bert, llama, &arena, &texts, err);
    if (r) goto out;
    bool add_bos = v->add_bos >= 0 ? v->add_bos > 0 : llama || bert || (pre && pre->add_bos);
    bool add_eos = v->add_eos >= 0 ? v->add_eos > 0 : bert || t5;
    uint32_t bos = v->bos == TOKEN_NONE ? v->cls : v->bos, eos = (bert && v->sep != TOKEN_NONE) || v->eos == TOKEN_NONE ? v->sep : v->eos;
    bool one_between = bert || (bos != TOKEN_NONE && span_eq_str(v->tokens[bos], "[CLS]")); /* texts of a pair: ModernBERT's are as BERT's, though cut as GPT-2's */
    if (bert && v->add_sep > 0) add_eos = true;
    json_begin(&w, &text);
    json_object(&w);
    json_str(&w, "version", "1.0");
    put_added(&w, v, texts);
    put_template(&w, v, add_bos ? bos : TOKEN_NONE, add_eos ? eos : TOKEN_NONE, one_between);
    if (gpt2) put_gpt2(&w, v, texts, pre);
    else if (llama) r = put_llama(&w, v, texts, err);
    else if (bert) put_bert(&w, v, texts);
    else put_unigram(&w, v, texts);
    if (r) goto out;
    json_object_end(&w);
    if (text.failed) {
        r = error_set(err, text.failed == E_FULL ? E_TOO_LARGE : text.failed, "the vocabulary is larger than %d bytes, or there is no memory for it", TEXT_MAX);
        goto out;
    }
    r = tokenizer_parse(buf_span(&text), &t, err);
    if (r) {
        error_prefix(err, "the file's vocabulary");
        goto out;
    }
    tokenizer_set_special(t, bos, eos, v->pad);
    *out = t;
out:
    buf_fini(&text);
    arena_fini(&arena);
    return r;
}
