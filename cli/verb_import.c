/*
 * import: a model from elsewhere. It is looked through here, as far as its files' heads go, so that what cannot be read is not sent; its files go up as /v1/files of purpose model, and a job of the
 * trainer loads it whole and makes a candidate of it. What is a candidate passes the same gates as a model that was trained here.
 */
#include <errno.h>
#include <stdio.h>
#include <sys/stat.h>

#include "base/alloc.h"
#include "base/file.h"
#include "base/random.h"
#include "base/sha256.h"
#include "hub.h"
#include "model/adapter.h"
#include "model/model_dir.h"
#include "model/quantize.h"
#include "remote.h"

enum { FILES_MAX = 1100, PIECE = 1 << 20 };

struct import_file {
    char name[256], path[HUB_PATH_MAX + 256], sha256[SHA256_HEX_MAX];
    uint64_t size;
};
struct import {
    struct remote x;
    struct import_file *files;
    size_t n, next;
    uint64_t bytes;
    bool gguf;
    char base[ADAPTER_BASE_MAX]; /* of an adapter: as --base or its configuration names it */
    char dir[HUB_PATH_MAX], source[512];
    struct progress bar;
};

/* What belongs to a model among what lies in its folder. */
static bool belongs(const char *name) {
    static const char *const ends[] = {".json", ".safetensors", ".jinja"};
    struct span s = span_str(name);
    if (s.data[0] == '.') return false;
    for (size_t i = 0; i < sizeof ends / sizeof *ends; i++)
        if (span_ends(s, span_str(ends[i]))) return true;
    return span_eq_str(s, "README.md") || span_starts(s, SPAN("LICENSE")) || span_eq_str(s, "model.gguf") || span_eq_str(s, MODEL_WEIGHTS_FILE);
}

static int add(struct import *m, const char *path, const char *name) {
    struct stat st;
    if (stat(path, &st) != 0) return error_errno(&m->x.err, errno, "%s", path);
    if (!S_ISREG(st.st_mode)) return 0;
    if (st.st_size == 0) return 0; /* says nothing, and an upload of nothing is refused */
    if (m->n == FILES_MAX) return error_set(&m->x.err, E_TOO_LARGE, "%s: a model has at most %d files", m->dir, FILES_MAX);
    struct import_file *f = &m->files[m->n++];
    span_copy(f->name, sizeof f->name, span_str(name));
    span_copy(f->path, sizeof f->path, span_str(path));
    f->size = (uint64_t)st.st_size;
    m->bytes += f->size;
    m->gguf |= !strcmp(name, "model.gguf");
    return 0;
}

/* sentence-transformers keeps what a step after the model does in a folder of its own: 1_Pooling/config.json. */
static bool is_module(const char *name) {
    size_t digits = strspn(name, "0123456789");
    return digits > 0 && digits < 4 && name[digits] == '_';
}

static int add_entry(void *arg, const char *name) {
    struct import *m = arg;
    char path[HUB_PATH_MAX + 512], inside[256];
    struct stat st;
    if (strlen(name) >= 180) return 0;
    (void)snprintf(path, sizeof path, "%s/%s", m->dir, name);
    if (!is_module(name)) return belongs(name) ? add(m, path, name) : 0;
    (void)snprintf(inside, sizeof inside, "%s/config.json", name);
    (void)snprintf(path, sizeof path, "%s/%s", m->dir, inside);
    return stat(path, &st) == 0 ? add(m, path, inside) : 0;
}

static void on_fetched(void *arg, const char *file, uint64_t done, uint64_t total) {
    struct import *m = arg;
    if (!m->bar.open) progress_begin(&m->bar, "fetched", total, "B");
    progress_set(&m->bar, done, file);
}

/* From where it is to a folder or a file on this machine, and from there to the list of its files. */
static int find(struct import *m, const char *what) {
    struct error *err = &m->x.err;
    char path[HUB_PATH_MAX];
    struct stat st;
    int r = 0;
    (void)snprintf(m->source, sizeof m->source, "%s", what);
    span_copy(path, sizeof path, span_str(what));
    if (span_starts(span_str(what), SPAN("hf:"))) {
        struct hub_ref ref;
        char cache[HUB_PATH_MAX];
        struct hub_progress progress = {m, on_fetched};
        r = hub_ref_parse(span_str(what + 3), &ref, err);
        if (r == 0) r = hub_cache(cache, err);
        if (r == 0) r = hub_get(&ref, cache, &progress, path, err);
        progress_end(&m->bar, r == 0);
        if (r != 0) return r;
    }
    if (stat(path, &st) != 0) return error_errno(err, errno, "%s", path);
    span_copy(m->dir, sizeof m->dir, span_str(path));
    if (S_ISDIR(st.st_mode)) r = dir_list(path, m, add_entry, err);
    else r = add(m, path, "model.gguf");
    if (r == 0 && m->n == 0) r = error_set(err, E_NOT_FOUND, "%s has no file of a model", path);
    return r;
}

/* FILE goes for the model's own. */
static int take_generation(struct import *m, const char *path) {
    static const char name[] = "generation_config.json";
    struct error *err = &m->x.err;
    struct buf text;
    buf_init(&text, 1 << 20);
    int r = file_read(path, &text, err);
    if (r == 0 && (r = model_generation_check(buf_span(&text), err)) != 0) error_prefix(err, "%s", path);
    buf_fini(&text);
    for (size_t i = 0; r == 0 && i < m->n; i++)
        if (!strcmp(m->files[i].name, name)) {
            m->bytes -= m->files[i].size;
            m->files[i] = m->files[--m->n];
            break;
        }
    return r ? r : add(m, path, name);
}

/* Of an adapter its own directory has little beside the pair of files: a trainer's leftovers are no part of the version. */
static bool belongs_to_adapter(const char *name) {
    struct span s = span_str(name);
    return span_eq_str(s, "adapter_config.json") || span_eq_str(s, "adapter_model.safetensors") || span_eq_str(s, "README.md") || span_starts(s, SPAN("LICENSE"));
}

/* Its base is a version here: the one that is asked for, or the one that it names as the hub or a folder calls it. */
static int find_base(struct import *m, const char *asked, const char *named) {
    const char *slash = strrchr(named, '/'), *base = asked ? asked : slash ? slash + 1 : named;
    struct error *err = &m->x.err;
    if (!base[0]) return error_set(err, E_INVALID, "%s does not say which model it was made for: name it by --base MODEL", m->dir);
    remote_path(&m->x, "/v1/admin/models/");
    remote_add(&m->x, "", base);
    int r = remote_get(&m->x);
    if (r == E_NOT_FOUND || r == E_INVALID) {
        struct error said = *err;
        return asked ? error_set(err, r, "--base %s: %s", asked, said.message)
                     : error_set(err, E_NOT_FOUND, "%s was made for \"%.200s\", and no model here is called %.100s: import that first, or name its base by --base MODEL", m->dir, named, base);
    }
    if (r == 0) span_copy(m->base, sizeof m->base, span_str(base));
    return r;
}

static int look_through_adapter(struct import *m, const char *asked) {
    struct adapter_config config = {.rank = 0};
    struct safetensors *file = NULL;
    char path[HUB_PATH_MAX + 64];
    size_t kept = 0;
    int r = model_adapter_config(m->dir, &config, &m->x.err);
    (void)snprintf(path, sizeof path, "%s/adapter_model.safetensors", m->dir);
    if (r == 0) r = safetensors_open(&file, path, &m->x.err); /* whether it fits the base the platform finds out, which has it */
    safetensors_close(file);
    if (r == 0) r = find_base(m, asked, config.base);
    adapter_config_fini(&config);
    m->bytes = 0;
    for (size_t i = 0; i < m->n; i++) {
        if (!belongs_to_adapter(m->files[i].name)) continue;
        m->bytes += m->files[i].size;
        m->files[kept++] = m->files[i];
    }
    m->n = kept;
    return r;
}

static int look_through(struct import *m, const char *base) {
    struct model_dir dir = {0};
    char config[HUB_PATH_MAX + 16];
    (void)snprintf(config, sizeof config, "%s/config.json", m->dir);
    if (model_adapter_is(m->dir) && !file_exists(config)) return look_through_adapter(m, base);
    if (base) return error_set(&m->x.err, E_INVALID, "--base goes with an adapter: %s has no adapter_config.json of its own", m->dir);
    int r = model_dir_load(&dir, m->dir, MODEL_WEIGHTS_MAP, 0, &m->x.err);
    if (r == 0 && !dir.tokenizer) r = error_set(&m->x.err, E_INVALID, "%s has no tokenizer", m->dir);
    model_dir_fini(&dir);
    return r;
}

static int digest(struct import *m) {
    uint64_t done = 0;
    int r = 0;
    progress_begin(&m->bar, "read", m->bytes, "B");
    for (size_t i = 0; r == 0 && i < m->n; i++) {
        struct import_file *f = &m->files[i];
        struct file_map map;
        struct sha256 h;
        uint8_t raw[SHA256_SIZE];
        r = file_map_open(&map, f->path, &m->x.err);
        if (r != 0) break;
        sha256_init(&h);
        for (size_t at = 0; at < map.len; at += PIECE) {
            size_t n = map.len - at < PIECE ? map.len - at : PIECE;
            sha256_update(&h, (const uint8_t *)map.data + at, n);
            progress_set(&m->bar, done += n, NULL);
        }
        sha256_final(&h, raw);
        hex_encode(raw, sizeof raw, f->sha256);
        file_map_close(&map);
    }
    progress_end(&m->bar, r == 0);
    return r;
}

static bool next_upload(void *arg, struct client_request *q) {
    struct import *m = arg;
    if (m->next == m->n) return false;
    struct import_file *f = &m->files[m->next++];
    *q = (struct client_request){.method = "POST", .path = "/v1/files", .file = f->path, .purpose = "model", .again = true, .arg = f};
    return true;
}

static int upload_done(void *arg, const struct client_request *q, int r, const struct json *answer, const struct error *err) {
    struct import *m = arg;
    const struct import_file *f = q->arg;
    (void)answer;
    if (r == 0) return 0;
    m->x.err = *err;
    (void)error_prefix(&m->x.err, "%s", f->name);
    return r;
}

static void upload_tick(void *arg, uint64_t sent) { progress_set(&((struct import *)arg)->bar, sent, NULL); }

static int upload(struct import *m) {
    const struct client_batch batch = {m, next_upload, upload_done, upload_tick};
    progress_begin(&m->bar, "sent", m->bytes, "B");
    int r = client_batch(m->x.client, 2, &batch, &m->x.err);
    progress_end(&m->bar, r == 0);
    return r;
}

static int ask(struct import *m, const char *name, const char *reason, const char *quantize, const char *named, char job[256]) {
    char id[ID_TEXT_MAX];
    remote_path(&m->x, "/v1/admin/jobs");
    struct json_out w = remote_body(&m->x);
    json_str(&w, "id", named ? named : id_make(id)); /* so that asking again is the same job */
    json_str(&w, "model", name);
    json_str(&w, "kind", "JOB_KIND_IMPORT");
    if (m->base[0]) json_str(&w, "base_model", m->base);
    char said[640];
    (void)snprintf(said, sizeof said, "imported from %.600s", m->source);
    json_str(&w, "reason", reason ? reason : said);
    json_key(&w, "import_spec");
    json_object(&w);
    json_str(&w, "source", m->source);
    if (quantize) json_str(&w, "quantize", quantize);
    json_key(&w, "files");
    json_array(&w);
    for (size_t i = 0; i < m->n; i++) {
        json_object(&w);
        json_str(&w, "name", m->files[i].name);
        json_key(&w, "content");
        json_object(&w);
        json_str(&w, "sha256", m->files[i].sha256);
        json_num(&w, "size_bytes", (int64_t)m->files[i].size);
        json_object_end(&w);
        json_object_end(&w);
    }
    json_array_end(&w);
    json_object_end(&w);
    json_object_end(&w);
    int r = remote_call(&m->x, "POST", true);
    if (r == 0) span_copy(job, 256, json_string(json_get(m->x.answer, "id")));
    return r;
}

static double figure_of(const struct json *job, const char *name) {
    const struct json *figures = json_get(job, "figures");
    for (size_t i = 0; i < json_size(figures); i++)
        if (span_eq_str(json_string(json_get(json_at(figures, i), "name")), name)) return json_real(json_get(json_at(figures, i), "value"), 0);
    return 0;
}

/* What quantizing cost, as `evaluate DIR --weights` tells it. */
static void tell_cost(struct import *m, const struct json *job, const char *quantize) {
    double before = figure_of(job, "weights_bytes_before"), bytes = figure_of(job, "weights_bytes"), cosine = figure_of(job, "cosine_to_original");
    (void)buf_printf(&m->x.out, "The weights are %s: %.1f MiB in place of %.1f. ", quantize, bytes / (1 << 20), before / (1 << 20));
    if (cosine != 0) (void)buf_printf(&m->x.out, "Its vectors have a mean cosine of %.6f with those of the original.\n", cosine);
    else
        (void)buf_printf(&m->x.out, "Perplexity %.4g, that of the original %.4g; the same first choice in %.2f %% of places.\n", figure_of(job, "perplexity"), figure_of(job, "perplexity_before"),
                         100 * figure_of(job, "same_first_choice"));
}

static int run_import(struct cli *c) {
    char id[256] = "", version[256] = "";
    struct json *job = NULL;
    if (!cli_text(c, "--name")) return cli_usage(c, "--name MODEL is missing: what comes out is a version of it");
    const char *quantize = cli_text(c, "--quantize");
    enum tensor_type type;
    struct error wrong = {0};
    if (quantize && model_quantize_type(span_str(quantize), &type, &wrong)) return cli_usage(c, "--quantize: %s", wrong.message);
    struct import *m = mem_zalloc(sizeof *m);
    if (!m) return cli_failf(c, "no memory");
    int r = remote_open(&m->x, c);
    m->files = mem_calloc(FILES_MAX, sizeof *m->files);
    if (r == 0 && !m->files) r = error_set(&m->x.err, E_NOMEM, "no memory for a list of files");
    if (r == 0) r = find(m, cli_operand(c, 0));
    if (r == 0) r = look_through(m, cli_text(c, "--base"));
    if (r == 0 && m->base[0] && quantize) r = error_set(&m->x.err, E_INVALID, "--quantize is of models: an adapter is computed as it is");
    if (r == 0 && m->base[0] && cli_text(c, "--generation-config")) r = error_set(&m->x.err, E_INVALID, "--generation-config is of models: an adapter answers as its base does");
    if (r == 0 && cli_text(c, "--generation-config")) r = take_generation(m, cli_text(c, "--generation-config"));
    if (r == 0) r = digest(m);
    if (r == 0) r = upload(m);
    if (r == 0) r = ask(m, cli_text(c, "--name"), cli_text(c, "--reason"), quantize, cli_text(c, "--id"), id);
    if (r == 0) r = remote_watch_job(&m->x, id, &job);
    if (r == 0) r = remote_version_of_job(&m->x, id, version);
    if (job && cli_json(c)) {
        json_object(&m->x.json);
        json_key(&m->x.json, "job");
        json_put_value(&m->x.json, job);
        json_str(&m->x.json, "version", version[0] ? version : NULL);
        json_object_end(&m->x.json);
    } else if (version[0]) {
        if (quantize) tell_cost(m, job, quantize);
        (void)buf_printf(&m->x.out, "%s is there: a candidate, which the gates measure as they measure every version. Then:\n  genloop models show %s\n  genloop approve %s --reason TEXT\n  genloop promote %s --reason TEXT\n",
                         version, version, version, version);
    }
    json_free(job);
    int code = remote_close(&m->x, r);
    mem_free(m->files);
    mem_free(m);
    return code;
}

static const struct cli_option OPTIONS[] = {
    {.name = "--name", .kind = CLI_TEXT, .value = "MODEL", .doc = "What comes out is a new version of MODEL (needed)"},
    {.name = "--base", .kind = CLI_TEXT, .value = "MODEL", .doc = "Of an adapter: the model here that it was made for; otherwise the one that its adapter_config.json names"},
    {.name = "--reason", .kind = CLI_TEXT, .value = "TEXT", .doc = "Why, for the records; otherwise where it came from"},
    {.name = "--quantize", .kind = CLI_TEXT, .value = "TYPE", .doc = "Turn the weights into f16, bf16, q8_0, q4_0 or q4_1; what it costs is measured, told here and in the model card"},
    {.name = "--generation-config", .kind = CLI_TEXT, .value = "FILE", .doc = "A generation_config.json in place of the model's own: the temperature, top_p, top_k … of a request that says none"},
    {.name = "--id", .kind = CLI_TEXT, .value = "ID", .doc = "Name the job: asked for again, the same id is the same job"},
    {0},
};
const struct verb VERBS_IMPORT[] = {
    {.name = "import", .operands = "DIR|FILE|hf:ORG/NAME[@REVISION][:FILE]", .operands_min = 1, .operands_max = 1, .summary = "A model from elsewhere becomes a candidate", .options = OPTIONS, .json = true, .run = run_import,
     .help = "DIR is a model directory as Hugging Face has them (config.json, model.safetensors or its shards, tokenizer.json), FILE one in GGUF. hf: fetches from the hub by $HF_ENDPOINT and $HF_TOKEN, goes on where\n"
             "a download was cut off, and keeps the files in $GENLOOP_HUB_CACHE (default ~/.cache/genloop/hub). The files go to the platform, which loads the model whole and takes a step with it before it is a version.\n"
             "Encoders (embedders, cross-encoders, classifiers) come in the same way as models that generate. The gates then measure it, as a first version or against the name's version in production: on held-out texts\n"
             "of the newest data set, or, on a platform without one and for encoders, on the prose that the platform ships, which the evidence says. A person approves. An encoder-decoder (T5) is measured by the second\n"
             "half of each text, given its first.\n"
             "DIR may be a LoRA adapter in PEFT's layout (adapter_config.json, adapter_model.safetensors): a version of its own, computed over the weights of its base, which replicas load once for all of its adapters.\n\n"
             "examples:\n"
             "  genloop import SmolLM2-135M-Instruct.Q4_1.gguf --name smol\n"
             "  genloop import hf:HuggingFaceTB/SmolLM2-135M-Instruct --name smol\n"
             "  genloop import chat.Q8_0.gguf --name chat --generation-config generation_config.json\n"
             "  genloop import SmolLM2-135M-Instruct/ --name smol --quantize q8_0\n"
             "  genloop import my-lora/ --name smol-support --base smol"},
    {0},
};
