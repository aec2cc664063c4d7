/* Texts and ids over small tokenizers of every model: what is encoded decodes in a stream as it does whole, offsets stay in the text, and no id is beyond the vocabulary.
 * The first byte says which tokenizer, the second the flags; the rest is the text, and again the ids (two bytes each). */
#include "base/alloc.h"
#include "tokenizer/tokenizer.h"

#define BAR "\xE2\x96\x81"
#define FILE_OF(norm, pre, post, dec, model)                                                                                                            \
    "{\"added_tokens\":[{\"id\":0,\"content\":\"<s>\",\"special\":true},{\"id\":1,\"content\":\"ab\",\"special\":false,\"normalized\":true,\"single_word\":true},"  \
    "{\"id\":2,\"content\":\"#\",\"special\":true,\"lstrip\":true,\"rstrip\":true}],\"normalizer\":" norm ",\"pre_tokenizer\":" pre ",\"post_processor\":" post           \
    ",\"decoder\":" dec ",\"model\":" model "}"
#define VOCAB "{\"<s>\":0,\"ab\":1,\"#\":2,\"a\":3,\"b\":4,\"##a\":5,\"##b\":6,\"" BAR "\":7,\"" BAR "a\":8,\"aa\":9,\"<0x0A>\":10,\"<0xC3>\":11,\"<0xA9>\":12,\"##ab\":13,\"?\":14}"
#define CLS "{\"type\":\"BertProcessing\",\"cls\":[\"<s>\",0],\"sep\":[\"#\",2]}"
#define META "{\"type\":\"Metaspace\",\"replacement\":\"" BAR "\",\"prepend_scheme\":\"first\",\"split\":true}"
static const char *const files[] = {
    FILE_OF("{\"type\":\"BertNormalizer\"}", "{\"type\":\"BertPreTokenizer\"}", CLS, "{\"type\":\"WordPiece\"}", "{\"type\":\"WordPiece\",\"unk_token\":\"?\",\"continuing_subword_prefix\":\"##\",\"vocab\":" VOCAB "}"),
    FILE_OF("{\"type\":\"Sequence\",\"normalizers\":[{\"type\":\"Prepend\",\"prepend\":\"" BAR "\"},{\"type\":\"Replace\",\"pattern\":{\"String\":\" \"},\"content\":\"" BAR "\"}]}", "null", CLS,
            "{\"type\":\"Sequence\",\"decoders\":[{\"type\":\"Replace\",\"pattern\":{\"String\":\"" BAR "\"},\"content\":\" \"},{\"type\":\"ByteFallback\"},{\"type\":\"Fuse\"},{\"type\":\"Strip\",\"content\":\" \",\"start\":1,\"stop\":1}]}",
            "{\"type\":\"BPE\",\"unk_token\":\"?\",\"fuse_unk\":true,\"byte_fallback\":true,\"vocab\":" VOCAB ",\"merges\":[[\"a\",\"a\"],[\"" BAR "\",\"a\"],[\"a\",\"b\"]]}"),
    FILE_OF("{\"type\":\"Sequence\",\"normalizers\":[{\"type\":\"Nmt\"},{\"type\":\"NFKC\"},{\"type\":\"Strip\"},{\"type\":\"Replace\",\"pattern\":{\"Regex\":\" {2,}\"},\"content\":\" \"}]}", META, CLS, META,
            "{\"type\":\"Unigram\",\"unk_id\":3,\"byte_fallback\":true,\"vocab\":[[\"<s>\",0],[\"ab\",-3],[\"#\",0],[\"<unk>\",0],[\"a\",-2],[\"b\",-2.5],[\"" BAR "a\",-3],[\"" BAR "\",-2],[\"<0xC3>\",-9],[\"<0xA9>\",-9]]}"),
    FILE_OF("{\"type\":\"Sequence\",\"normalizers\":[{\"type\":\"NFD\"},{\"type\":\"StripAccents\"},{\"type\":\"Lowercase\"}]}",
            "{\"type\":\"Sequence\",\"pretokenizers\":[{\"type\":\"Whitespace\"},{\"type\":\"Digits\"},{\"type\":\"Split\",\"pattern\":{\"Regex\":\"(?i:a)+|[^a]\"},\"behavior\":\"MergedWithNext\",\"invert\":false}]}",
            CLS, "null", "{\"type\":\"WordLevel\",\"unk_token\":\"?\",\"vocab\":" VOCAB "}"),
    FILE_OF("{\"type\":\"NFC\"}", "{\"type\":\"Sequence\",\"pretokenizers\":[{\"type\":\"Punctuation\",\"behavior\":\"MergedWithPrevious\"},{\"type\":\"ByteLevel\",\"add_prefix_space\":true,\"use_regex\":true}]}", CLS,
            "{\"type\":\"ByteLevel\"}", "{\"type\":\"BPE\",\"vocab\":" VOCAB ",\"merges\":[\"a a\",\"a b\"]}"),
    FILE_OF("null", "{\"type\":\"Sequence\",\"pretokenizers\":[{\"type\":\"ByteLevel\",\"add_prefix_space\":false,\"use_regex\":false},{\"type\":\"Digits\",\"individual_digits\":true}]}", CLS,
            "{\"type\":\"Sequence\",\"decoders\":[{\"type\":\"ByteLevel\"},{\"type\":\"Replace\",\"pattern\":{\"String\":\"aab\"},\"content\":\"x\"}]}",
            "{\"type\":\"BPE\",\"unk_token\":\"?\",\"end_of_word_suffix\":\"b\",\"vocab\":" VOCAB ",\"merges\":[]}"),
};
enum { KINDS = sizeof files / sizeof files[0] };
static struct tokenizer *tokenizers[KINDS];

static void decode(const struct tokenizer *t, const uint32_t *ids, size_t count, bool skip) {
    struct buf whole, streamed;
    struct detokenizer d;
    buf_init(&whole, 1 << 24);
    buf_init(&streamed, 1 << 24);
    detokenizer_init(&d, t, skip);
    int r = tokenizer_decode(t, ids, count, skip, &whole), q = 0;
    for (size_t i = 0; !q && i < count; i++) {
        q = detokenizer_push(&d, ids[i], &streamed);
        if (!q) ASSERT(span_is_utf8(buf_span(&streamed)));
    }
    if (!q) q = detokenizer_finish(&d, &streamed);
    ASSERT(r == 0 && q == 0);
    ASSERT(span_eq(buf_span(&whole), buf_span(&streamed)));
    detokenizer_fini(&d);
    buf_fini(&whole);
    buf_fini(&streamed);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    struct error err = {0};
    if (size < 2) return 0;
    const struct tokenizer *t = tokenizers[data[0] % KINDS];
    if (!t) {
        ASSERT(tokenizer_parse(span_str(files[data[0] % KINDS]), &tokenizers[data[0] % KINDS], &err) == 0);
        t = tokenizers[data[0] % KINDS];
    }
    unsigned flags = data[1] & 7;
    struct span text = span_of(data + 2, size - 2);
    struct tokens ids = {0};
    if (tokenizer_encode(t, text, flags, &ids, &err) == 0) {
        for (size_t i = 0; i < ids.len; i++) {
            ASSERT(ids.ids[i] < tokenizer_vocab_size(t));
            if (flags & TOKENIZER_OFFSETS) ASSERT(ids.offsets[i].start <= ids.offsets[i].end && ids.offsets[i].end <= text.len);
        }
        decode(t, ids.ids, ids.len, data[1] & 8);
        uint8_t *types = NULL;
        struct tokens pair = {0};
        size_t half = size / 2;
        if (tokenizer_encode_pair(t, text, span_of(data + half, size - half), flags, data[1] & 16 ? 7 : 0, &pair, &types, &err) == 0) {
            if (data[1] & 16) ASSERT(pair.len <= 7);
            mem_free(types);
        }
        tokens_fini(&pair);
    }
    tokens_fini(&ids);
    uint32_t list[512];
    size_t n = 0;
    for (size_t i = 2; i + 1 < size && n < 512; i += 2) list[n++] = data[i] % 20u;
    decode(t, list, n, data[1] & 8);
    return 0;
}
