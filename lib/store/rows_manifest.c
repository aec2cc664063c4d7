#include "store/rows_manifest.h"

#include "base/json.h"

enum { MANIFEST_MAX = 64 * 1024 };

static void put_split(struct json_out *w, const struct rows_split *s) {
    json_key(w, s->name);
    json_object(w);
    json_key(w, "samples");
    json_array(w);
    json_object(w);
    json_str(w, "sha256", s->samples.sha256);
    json_num(w, "size", (int64_t)s->samples.size);
    json_num(w, "rows", (int64_t)s->rows);
    json_object_end(w);
    json_array_end(w);
    json_object_end(w);
}

int rows_manifest_put(struct store *s, const char *name, uint32_t version, const char *kind, const struct rows_split *splits, size_t n, struct object_ref *ref, struct error *err) {
    struct buf out;
    struct json_out w;
    buf_init(&out, MANIFEST_MAX);
    json_begin(&w, &out);
    json_object(&w);
    json_key(&w, "@context");
    json_object(&w);
    json_str(&w, "@vocab", "https://schema.org/");
    json_str(&w, "sc", "https://schema.org/");
    json_str(&w, "cr", "http://mlcommons.org/croissant/");
    json_object_end(&w);
    json_str(&w, "@type", "sc:Dataset");
    json_str(&w, "conformsTo", "http://mlcommons.org/croissant/1.0");
    json_num(&w, "format", 1);
    json_str(&w, "name", name);
    json_num(&w, "version", version);
    json_str(&w, "kind", kind);
    json_key(&w, "splits");
    json_object(&w);
    for (size_t i = 0; i < n; i++) put_split(&w, &splits[i]);
    json_object_end(&w);
    json_object_end(&w);
    int r = out.failed ? error_set(err, out.failed, "no memory for a manifest") : store_put(s, buf_span(&out), ref, err);
    buf_fini(&out);
    return r;
}
