#include "services/ingest/manifest.h"

#include "base/clock.h"
#include "base/json.h"

void tag_table_add(struct tag_table *t, const char *tag, uint64_t bytes) {
    size_t i = 0;
    while (i < t->n && strcmp(t->items[i].tag, tag)) i++;
    if (i == t->n && t->n == FACTS_TAGS_MAX) i = FACTS_TAGS_MAX - 1;
    else if (i == t->n) {
        span_copy(t->items[i].tag, sizeof t->items[i].tag, t->n + 1 == FACTS_TAGS_MAX ? SPAN("other") : span_str(tag));
        t->n++;
    }
    t->items[i].documents++;
    t->items[i].bytes += bytes;
}

static int by_bytes(const void *a, const void *b) {
    const struct tag_count *x = a, *y = b;
    if (x->bytes != y->bytes) return x->bytes < y->bytes ? 1 : -1;
    return strcmp(x->tag, y->tag);
}

void tag_table_sort(struct tag_table *t) { qsort(t->items, t->n, sizeof *t->items, by_bytes); }

static void put_ref(struct json_out *w, const struct object_ref *ref) {
    json_str(w, "sha256", ref->sha256);
    json_key(w, "size");
    json_put_uint(w, ref->size);
}

static void put_count(struct json_out *w, const char *key, uint64_t n) {
    json_key(w, key);
    json_put_uint(w, n);
}

static void put_split(struct json_out *w, const char *name, const struct split *s) {
    json_key(w, name);
    json_object(w);
    json_key(w, "tokens");
    json_array(w);
    for (size_t i = 0; i < s->tokens_shards.n; i++) {
        json_object(w);
        put_ref(w, &s->tokens_shards.items[i].object);
        put_count(w, "count", s->tokens_shards.items[i].count);
        json_object_end(w);
    }
    json_array_end(w);
    json_key(w, "index");
    json_object(w);
    put_ref(w, &s->index_ref.object);
    json_object_end(w);
    json_key(w, "samples");
    json_array(w);
    for (size_t i = 0; i < s->samples_shards.n; i++) {
        json_object(w);
        put_ref(w, &s->samples_shards.items[i].object);
        put_count(w, "rows", s->samples_shards.items[i].count);
        json_object_end(w);
    }
    json_array_end(w);
    json_key(w, "pairs");
    json_object(w);
    put_ref(w, &s->pairs_ref.object);
    put_count(w, "rows", s->pairs_ref.count);
    json_object_end(w);
    put_count(w, "documents", s->documents);
    put_count(w, "token_count", s->tokens_count);
    put_count(w, "text_bytes", s->text_bytes);
    json_object_end(w);
}

/* Croissant: each file as a cr:FileObject, and the rows that they hold. */
static void put_file(struct json_out *w, const char *id, const char *format, const struct object_ref *ref) {
    char url[96];
    json_object(w);
    json_str(w, "@type", "cr:FileObject");
    json_str(w, "@id", id);
    json_str(w, "name", id);
    json_str(w, "encodingFormat", format);
    snprintf(url, sizeof url, "store:%s", ref->sha256);
    json_str(w, "contentUrl", url);
    json_str(w, "sha256", ref->sha256);
    json_key(w, "contentSize");
    char size[32];
    snprintf(size, sizeof size, "%llu B", (unsigned long long)ref->size);
    json_put_str(w, size);
    json_object_end(w);
}

static void put_distribution(struct json_out *w, const char *split, const struct split *s) {
    char id[64];
    for (size_t i = 0; i < s->samples_shards.n; i++) {
        snprintf(id, sizeof id, "%s-samples-%zu", split, i);
        put_file(w, id, "application/jsonl+zstd", &s->samples_shards.items[i].object);
    }
    snprintf(id, sizeof id, "%s-pairs", split);
    put_file(w, id, "application/jsonl+zstd", &s->pairs_ref.object);
    for (size_t i = 0; i < s->tokens_shards.n; i++) {
        snprintf(id, sizeof id, "%s-tokens-%zu", split, i);
        put_file(w, id, "application/octet-stream", &s->tokens_shards.items[i].object);
    }
    snprintf(id, sizeof id, "%s-index", split);
    put_file(w, id, "application/octet-stream", &s->index_ref.object);
}

static const char context[] =
    "{\"@language\":\"en\",\"@vocab\":\"https://schema.org/\",\"sc\":\"https://schema.org/\",\"cr\":\"http://mlcommons.org/croissant/\","
    "\"rai\":\"http://mlcommons.org/croissant/RAI/\",\"dct\":\"http://purl.org/dc/terms/\",\"conformsTo\":\"dct:conformsTo\",\"recordSet\":\"cr:recordSet\","
    "\"field\":\"cr:field\",\"dataType\":{\"@id\":\"cr:dataType\",\"@type\":\"@vocab\"},\"source\":\"cr:source\",\"extract\":\"cr:extract\",\"fileObject\":\"cr:fileObject\","
    "\"column\":\"cr:column\",\"jsonPath\":\"cr:jsonPath\"}";

int manifest_write(const struct dataset_facts *f, struct buf *out) {
    struct json_out w;
    char text[TIME_TEXT_MAX + 300];
    json_begin(&w, out);
    json_object(&w);
    json_key(&w, "@context");
    json_put_raw(&w, span_str(context));
    json_str(&w, "@type", "sc:Dataset");
    json_str(&w, "conformsTo", "http://mlcommons.org/croissant/1.0");
    json_num(&w, "format", 1);
    json_str(&w, "name", f->name);
    json_num(&w, "version", f->version);
    json_str(&w, "kind", "text");
    json_str(&w, "tenant", f->tenant);
    json_str(&w, "build_id", f->build_id);
    json_str(&w, "dateCreated", time_format(f->created_time_ms, text));
    snprintf(text, sizeof text, "%llu documents of text for pre-training, with token shards and question/answer pairs drawn from them.", (unsigned long long)(f->train->documents + f->held_out->documents));
    json_str(&w, "description", text);
    if (f->licences.n) {
        json_key(&w, "license");
        json_array(&w);
        for (size_t i = 0; i < f->licences.n; i++) json_put_str(&w, f->licences.items[i].tag);
        json_array_end(&w);
    }
    json_key(&w, "inLanguage");
    json_array(&w);
    for (size_t i = 0; i < f->languages.n; i++) json_put_str(&w, f->languages.items[i].tag);
    json_array_end(&w);
    put_count(&w, "vocab", f->vocab);
    json_str(&w, "token_type", f->vocab > 65536 ? "uint32" : "uint16");
    json_key(&w, "tokenizer");
    json_object(&w);
    put_ref(&w, &f->tokenizer);
    json_flag(&w, "trained_here", f->tokenizer_trained);
    json_object_end(&w);
    json_key(&w, "tokenizer_config");
    json_object(&w);
    put_ref(&w, &f->tokenizer_config);
    json_object_end(&w);
    json_key(&w, "splits");
    json_object(&w);
    put_split(&w, "train", f->train);
    put_split(&w, "held_out", f->held_out);
    json_object_end(&w);
    json_key(&w, "counts");
    json_object(&w);
    put_count(&w, "received", f->received);
    put_count(&w, "accepted", f->accepted);
    put_count(&w, "rejected", f->rejected);
    put_count(&w, "records", f->records);
    put_count(&w, "duplicates", f->duplicates);
    put_count(&w, "redactions", f->redactions);
    json_key(&w, "rejected_by_reason");
    json_object(&w);
    for (int i = 1; i < REASON_COUNT; i++)
        if (f->reasons[i]) put_count(&w, reason_word((enum reason)i), f->reasons[i]);
    json_object_end(&w);
    json_object_end(&w);
    json_key(&w, "options");
    json_object(&w);
    json_flt(&w, "held_out", f->held_out_share);
    put_count(&w, "seed", f->seed);
    json_object_end(&w);
    json_key(&w, "distribution");
    json_array(&w);
    put_distribution(&w, "train", f->train);
    put_distribution(&w, "held_out", f->held_out);
    put_file(&w, "tokenizer.json", "application/json", &f->tokenizer);
    json_array_end(&w);
    json_key(&w, "recordSet");
    json_array(&w);
    static const char *const splits[] = {"train", "held_out"};
    for (int k = 0; k < 2; k++) {
        const struct split *s = k ? f->held_out : f->train;
        if (!s->samples_shards.n) continue;
        static const char *const fields[] = {"id", "text", "title", "source", "language"};
        json_object(&w);
        json_str(&w, "@type", "cr:RecordSet");
        json_str(&w, "@id", splits[k]);
        json_str(&w, "name", splits[k]);
        json_key(&w, "field");
        json_array(&w);
        for (size_t i = 0; i < sizeof fields / sizeof *fields; i++) {
            char id[64];
            json_object(&w);
            json_str(&w, "@type", "cr:Field");
            snprintf(id, sizeof id, "%s/%s", splits[k], fields[i]);
            json_str(&w, "@id", id);
            json_str(&w, "name", fields[i]);
            json_str(&w, "dataType", "sc:Text");
            json_key(&w, "source");
            json_object(&w);
            json_key(&w, "fileObject");
            json_object(&w);
            snprintf(id, sizeof id, "%s-samples-0", splits[k]);
            json_str(&w, "@id", id);
            json_object_end(&w);
            json_key(&w, "extract");
            json_object(&w);
            snprintf(id, sizeof id, "$.%s", fields[i]);
            json_str(&w, "jsonPath", id);
            json_object_end(&w);
            json_object_end(&w);
            json_object_end(&w);
        }
        json_array_end(&w);
        json_object_end(&w);
    }
    json_array_end(&w);
    json_object_end(&w);
    return out->failed;
}
