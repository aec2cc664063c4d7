/*
 * genloop-feedback: what people say of answers, the gates, the registry's state machine and the audit log.
 *
 *   bus ──► commands.c ──► submit.c (store, topic)            facts.c ◄── topics: interactions, feedback, evaluations, datasets, jobs, audit
 *               │                                                │
 *               └──► holder.c ◄──► topics: audit, models, aliases │
 *                       ▲                                         ▼
 *                       └──────────────── watcher.c ◄── gates.c, sets.c, improve.c ──► the trainer
 */
#include <stddef.h>
#include <string.h>

#include "base/log.h"
#include "base/metrics.h"
#include "feedback.h"
#include "registry/trait.h"

#define AT(field) offsetof(struct settings, field)
static const struct config_row ROWS[] = {
    {"feedback", "evaluate", CONFIG_STRING, AT(evaluate), "auto", 0, 0, "auto: each new version is measured at once; manual: on command."},
    {"feedback", "improve_after", CONFIG_INT, AT(policy.improve_after), "0", 0, 1e9, "So many new judgements of a model ask for fine-tuning by themselves; 0: only on command."},
    {"feedback", "improve_pause", CONFIG_DURATION_MS, AT(policy.improve_pause_ms), "10m", 0, 0, "At least so long between two fine-tunings that nobody asked for."},
    {"feedback", "preference_preset", CONFIG_STRING, AT(preference_preset), "dpo-small", 0, 0, "Recipe of fine-tuning on preferences."},
    {"feedback", "supervised_preset", CONFIG_STRING, AT(supervised_preset), "corrections-small", 0, 0, "Recipe of fine-tuning on corrections."},
    {"feedback", "trait", CONFIG_STRING, AT(trait), "", 0, 0, "A trait that every evaluation counts (short, lists, numbers, or !NAME); empty: none."},
    {"feedback", "registry_key", CONFIG_SECRET, AT(registry_key), "", 0, 0, "The seed of the registry's signing key, 64 hex digits, where it comes from outside the home; empty: HOME/keys/registry.key, made where it is missing."},
    {"feedback", "lease", CONFIG_DURATION_MS, AT(lease_ms), "3s", 300, 600000, "How long a holder of the registry that has gone silent keeps it."},
    {"gates", "perplexity_ratio_max", CONFIG_REAL, AT(gates.perplexity_ratio_max), "1.05", 0, 100, "Gate perplexity: the high end of candidate / baseline on held-out documents."},
    {"gates", "win_rate_min", CONFIG_REAL, AT(gates.win_rate_min), "0.5", 0, 1, "Gate win_rate: the low end of the share of held-out preferences, by prompts, followed more than the baseline must be above it."},
    {"gates", "win_rate_pairs_min", CONFIG_INT, AT(gates.win_rate_pairs_min), "20", 1, 1e9, "Below so many held-out preferences, by prompts, the win rate is a figure and no gate."},
    {"gates", "mean_length_ratio_min", CONFIG_REAL, AT(gates.mean_length_ratio_min), "0.5", 0, 100, "Gate mean_length: answers may be so much shorter than the baseline's."},
    {"gates", "mean_length_ratio_max", CONFIG_REAL, AT(gates.mean_length_ratio_max), "2", 0, 100, "Gate mean_length: answers may be so much longer than the baseline's."},
    {"gates", "repetition_rise_max", CONFIG_REAL, AT(gates.repetition_rise_max), "0.1", 0, 1, "Gate repetition: the share of answers with a loop may rise by so much."},
    {"gates", "empty_max", CONFIG_REAL, AT(gates.empty_max), "0.05", 0, 1, "Gate empty: so many empty answers are always allowed."},
    {"gates", "empty_rise_max", CONFIG_REAL, AT(gates.empty_rise_max), "0.05", 0, 1, "Gate empty: the share of empty answers may rise by so much."},
    {"gates", "distinct_3_ratio_min", CONFIG_REAL, AT(gates.distinct_3_ratio_min), "0.8", 0, 1, "Gate distinct_3: variety of runs of three tokens, as a share of the baseline's."},
    {"gates", "first_bits_per_byte_max", CONFIG_REAL, AT(gates.first_bits_per_byte_max), "3", 0, 8, "Gate perplexity of a first version: the high end of bits per byte of held-out documents."},
    {"gates", "first_repetition_max", CONFIG_REAL, AT(gates.first_repetition_max), "0.3", 0, 1, "Gate repetition of a first version."},
    {"gates", "first_distinct_3_min", CONFIG_REAL, AT(gates.first_distinct_3_min), "0.3", 0, 1, "Gate distinct_3 of a first version."},
    {"gates", "documents_min", CONFIG_INT, AT(gates.documents_min), "10", 1, 1e6, "Gate evidence: held-out documents that a verdict rests on at least."},
    {"gates", "samples_min", CONFIG_INT, AT(gates.samples_min), "100", 1, 1e6, "Gate evidence: sampled prompts that a verdict rests on at least."},
    {"gates", "source_min", CONFIG_REAL, AT(gates.source_min), "0.5", 0, 1, "Gate source of an encoder-decoder: the low end of the share of second halves of held-out documents that are likelier given their own first half than another's."},
    {"gates", "encoder_cosine_max", CONFIG_REAL, AT(gates.encoder_cosine_max), "0.98", 0, 1, "Gate distinct of an encoder that embeds: the mean cosine between texts about different things."},
    {"gates", "encoder_spread_min", CONFIG_REAL, AT(gates.encoder_spread_min), "0.01", 0, 1000, "Gate distinct of a cross-encoder or classifier: the standard deviation of its outputs between texts."},
    {"gates", "encoder_recall_min", CONFIG_REAL, AT(gates.encoder_recall_min), "0.25", 0, 1, "Gate retrieval of an encoder's first version: the share of passages that find their other half first."},
    {"gates", "encoder_recall_drop_max", CONFIG_REAL, AT(gates.encoder_recall_drop_max), "0.1", 0, 1, "Gate retrieval of an encoder: that share may be so much below the baseline's."},
    {"gates", "documents", CONFIG_INT, AT(documents), "200", 1, GATES_DOCUMENTS_MAX, "Held-out documents that an evaluation measures at most."},
    {"gates", "prompts", CONFIG_INT, AT(prompts), "200", 1, GATES_SAMPLES_MAX, "Prompts from held-out documents that an evaluation samples answers to."},
    {"gates", "sample_tokens", CONFIG_INT, AT(sample_tokens), "48", 1, 4096, "Tokens of a sampled answer at most."},
    {"gates", "multiply_adds", CONFIG_REAL, AT(multiply_adds), "4", 0, 1e6,
     "What measuring a version may take, in 10^12 multiply-adds (a token of a model of N parameters takes N; 4 is about a minute of two cores). Of a larger model fewer documents, preferences and prompts "
     "are measured, but at least documents_min and samples_min; 0: no limit."},
    {"gates", "seed", CONFIG_INT, AT(seed), "1", 0, 9e15, "Seed of the sampled answers: the same for candidate and baseline."},
    {"gates", "temperature", CONFIG_REAL, AT(temperature), "1", 0, 2, "Temperature of the sampled answers."},
};

static struct feedback_service the_service; /* outlives the loop: what was posted last may come last */
static struct metric *m_open, *m_folded;

void work_begin(struct feedback_service *s) {
    s->open_work++;
    metric_set(m_open, (double)s->open_work);
}

void work_end(struct feedback_service *s) {
    ASSERT(s->open_work > 0);
    s->open_work--;
    metric_set(m_open, (double)s->open_work);
    if (s->open_work == 0 && service_draining(s->service)) service_drained(s->service);
}

static void changed(void *arg) {
    struct feedback_service *s = arg;
    if (s->stopped || !s->started) return;
    service_leads(s->service, holder_holds(s->holder));
    metric_set(m_folded, (double)view_events(s->facts.view));
    /* Ready with the facts as of start; the registry's answers need the ledger as of start too. */
    if (view_caught_up(s->facts.view) && holder_caught_up(s->holder) && !service_draining(s->service)) service_ready(s->service, true);
    commands_changed(s->commands);
    watcher_kick(s->watcher);
}

static void on_facts(void *facts) { (void)loop_post(service_loop(the_service.service), changed, ((struct facts *)facts)->owner); }

static void on_fatal(void *arg, const struct error *err) { service_fail(((struct feedback_service *)arg)->service, err); }

/* The seed of the registry's key that the configuration gives; false: it is none. */
static bool registry_seed(const struct settings *c, uint8_t seed[32]) {
    struct span hex = span_trim(span_str(c->registry_key));
    return hex.len == 64 && hex_decode(hex, seed) == 0;
}

static int check(const void *settings, struct error *err) {
    const struct settings *c = settings;
    uint8_t seed[32];
    bool keyed = span_empty(span_trim(span_str(c->registry_key))) || registry_seed(c, seed);
    explicit_bzero(seed, sizeof seed);
    if (strcmp(c->evaluate, "auto") != 0 && strcmp(c->evaluate, "manual") != 0) return error_set(err, E_INVALID, "feedback.evaluate: \"%s\" is neither auto nor manual", c->evaluate);
    if (c->trait[0] && !trait_known(span_str(c->trait))) return error_set(err, E_INVALID, "feedback.trait: \"%s\" is none of short, lists, numbers, or one of them with ! before it", c->trait);
    if (!keyed) return error_set(err, E_INVALID, "feedback.registry_key: it must be 64 hex digits");
    if (c->prompts < c->gates.samples_min)
        return error_set(err, E_INVALID, "gates.prompts (%lld) is below gates.samples_min (%lld): nothing could ever pass", (long long)c->prompts, (long long)c->gates.samples_min);
    if (c->documents < c->gates.documents_min)
        return error_set(err, E_INVALID, "gates.documents (%lld) is below gates.documents_min (%lld): nothing could ever pass", (long long)c->documents,
                         (long long)c->gates.documents_min);
    return 0;
}

/* The registry's key: the home's, or the one that the configuration gives, whose public half the others then find in the home. */
static int get_key(struct feedback_service *s, const char *dir, struct error *err) {
    uint8_t seed[32];
    if (span_empty(span_trim(span_str(s->settings->registry_key)))) {
        int r = registry_key_make(dir, err);
        return r == 0 ? registry_key_load(dir, true, &s->key, err) : r;
    }
    if (!registry_seed(s->settings, seed)) return error_set(err, E_INVALID, "feedback.registry_key: it must be 64 hex digits");
    registry_key_from_seed(seed, &s->key);
    explicit_bzero(seed, sizeof seed);
    return registry_key_publish(dir, &s->key, err);
}

static int start(struct service *service, void **arg, struct error *err) {
    struct feedback_service *s = &the_service;
    char path[4096];
    s->service = service;
    s->settings = service_settings(service);
    *arg = s;
    m_open = metric_gauge("genloop_feedback_open_work", "", "Calls and workers under way.");
    m_folded = metric_gauge("genloop_feedback_view_events", "", "Events folded into the view since start.");
    service_path(service, "keys", path, sizeof path);
    int r = get_key(s, path, err);
    if (r != 0) return r;
    service_secret(service, "api-keys", s->api_key_secret);
    s->facts.store = service_store(service);
    s->facts.keyring = service_keyring(service);
    s->facts.tenant = s->settings->shared.tenant;
    s->facts.owner = s;
    memcpy(s->facts.public_key, s->key.public_key, sizeof s->facts.public_key);
    struct holder_config holder = {.log = service_log(service), .key = &s->key, .instance = service_instance(service), .lease_ms = s->settings->lease_ms,
                                   .loop = service_loop(service), .arg = s, .on_change = changed, .on_fatal = on_fatal};
    service_path(service, "views", path, sizeof path);
    r = dir_make(path, err);
    service_path(service, "views/feedback.sqlite", path, sizeof path);
    if (r == 0) r = commands_open(s, &s->commands, err);
    if (r == 0) r = watcher_open(s, &s->watcher, err);
    if (r == 0) r = facts_open(&s->facts, holder.log, path, on_facts, on_facts, err);
    if (r == 0) r = holder_open(&holder, &s->holder, err);
    s->started = r == 0;
    if (r == 0) changed(s);
    return r;
}

static void drain(struct service *service, void *arg) {
    struct feedback_service *s = arg;
    (void)service;
    commands_drain(s->commands);
    if (s->open_work == 0) service_drained(s->service);
}

static void stop(struct service *service, void *arg) {
    struct feedback_service *s = arg;
    (void)service;
    s->stopped = true;
    commands_close(s->commands);
    s->commands = NULL;
    /* A worker that did not end in time still uses what is here: it goes with the process. */
    if (s->open_work > 0) return;
    watcher_close(s->watcher);
    s->watcher = NULL;
    holder_close(s->holder);
    s->holder = NULL;
    if (s->facts.view) facts_close(&s->facts);
    registry_key_wipe(&s->key);
}

int main(int argc, char **argv) {
    static const char *const peers[] = {"trainer", NULL};
    const struct service_spec spec = {
        .name = "feedback",
        .rows = ROWS,
        .n_rows = sizeof ROWS / sizeof ROWS[0],
        .settings_size = sizeof(struct settings),
        .wants_log = true,
        .wants_store = true,
        .wants_keyring = true,
        .wants_bus_server = true,
        .peers = peers,
        .bus = &COMMANDS_EVENTS,
        .check = check,
        .start = start,
        .drain = drain,
        .stop = stop,
    };
    return service_main(argc, argv, &spec);
}
