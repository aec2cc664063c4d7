#include "service/settings.h"

#include <arpa/inet.h>
#include <sys/stat.h>

#include "base/alloc.h"
#include "base/file.h"

#define AT(field) offsetof(struct service_settings, field)

const struct config_row SERVICE_ROWS[] = {
    {"", "log", CONFIG_STRING, AT(log), "embedded", 0, 0, "Where topics are: `embedded` (the private Redis of the home), `kafka://HOST:PORT,…`, `redis://…` or `redis+unix:PATH`."},
    {"", "log_properties", CONFIG_SECRET, AT(log_properties), "", 0, 0, "Lines `key=value` for librdkafka, as for TLS and SASL: security.protocol, sasl.mechanism, sasl.username, sasl.password, ssl.ca.location …"},
    {"", "store", CONFIG_STRING, AT(store), "", 0, 0, "Where objects are: `file:DIR`; empty: `file:HOME/store`."},
    {"", "redis", CONFIG_STRING, AT(redis), "", 0, 0, "The cache and membership: `unix:PATH`, `redis://…`, `rediss://…`; empty: the private Redis of the home."},
    {"", "home", CONFIG_STRING, AT(home), "~/.genloop", 0, 0, "The data directory: sockets, keys, objects, views, scratch."},
    {"", "instance", CONFIG_STRING, AT(instance), "", 0, 0, "Name of this instance, unique in the platform (letters, digits, hyphens); empty: SERVICE-1."},
    {"", "bus", CONFIG_STRING, AT(bus), "", 0, 0, "Where this instance answers the bus: `tcp://HOST:PORT` or `ipc://PATH`; empty: a socket in the home."},
    {"", "bus_key", CONFIG_SECRET, AT(bus_key), "", 0, 0, "The platform's key of the bus, 64 hex digits, the same for every instance, where homes are not shared; empty: HOME/keys/bus.key, made where it is missing."},
    {"", "advertise", CONFIG_STRING, AT(advertise), "", 0, 0, "Host name or address at which the other instances reach this one's bus and admin door; needed where they listen at 0.0.0.0; empty: where they listen."},
    {"", "admin", CONFIG_STRING, AT(admin), "127.0.0.1:0", 0, 0, "Address of /livez, /readyz and /metrics; port 0: a free one, told in the membership."},
    {"", "log_level", CONFIG_STRING, AT(log_level), "info", 0, 0, "The least that is logged: debug, info, warn or error."},
    {"", "log_format", CONFIG_STRING, AT(log_format), "json", 0, 0, "Log lines as json or text."},
    {"", "tenant", CONFIG_STRING, AT(tenant), "default", 0, 0, "The tenant of whatever no key assigns to another."},
    {"", "drain_ms", CONFIG_DURATION_MS, AT(drain_ms), "30s", 0, 600000, "At most so long from SIGTERM to exit; below Kubernetes' grace period."},
};
const size_t SERVICE_ROWS_COUNT = sizeof SERVICE_ROWS / sizeof *SERVICE_ROWS;
_Static_assert(sizeof SERVICE_ROWS / sizeof *SERVICE_ROWS <= SERVICE_ROWS_MAX, "SERVICE_ROWS_MAX");

const char *const SERVICE_SECTIONS[] = {"gateway", "ingest", "trainer", "inference", "feedback", "gates", "supervisor", NULL};

struct config_row *settings_rows(const struct config_row *rows, size_t n_rows, size_t *n) {
    struct config_row *all = mem_calloc(SERVICE_ROWS_COUNT + n_rows, sizeof *all);
    if (!all) return NULL;
    memcpy(all, SERVICE_ROWS, sizeof SERVICE_ROWS);
    if (n_rows) memcpy(all + SERVICE_ROWS_COUNT, rows, n_rows * sizeof *all);
    *n = SERVICE_ROWS_COUNT + n_rows;
    return all;
}

/* Replaces an owned setting; \1 and \2 in the format stand for a and b. */
static int set(char **field, struct error *err, const char *format, const char *a, const char *b) {
    struct buf text;
    buf_init(&text, 4096);
    for (const char *f = format; *f; f++) {
        if (*f == '\1') (void)buf_append_str(&text, a);
        else if (*f == '\2') (void)buf_append_str(&text, b);
        else (void)buf_append_char(&text, *f);
    }
    char *value = text.failed ? NULL : buf_detach(&text, NULL);
    buf_fini(&text);
    if (!value) return error_set(err, E_INVALID, "a path of the configuration is too long, or there is no memory for it");
    mem_free(*field);
    *field = value;
    return 0;
}

static bool is_name(const char *s) {
    size_t n = strlen(s);
    if (n == 0 || n > 64) return false;
    for (size_t i = 0; i < n; i++)
        if (!((s[i] >= 'a' && s[i] <= 'z') || (s[i] >= 'A' && s[i] <= 'Z') || (s[i] >= '0' && s[i] <= '9') || s[i] == '-' || (s[i] == '.' && i > 0))) return false;
    return true;
}

/* What may stand before ":PORT": a name, an IPv4 address, or an IPv6 address in brackets. */
static bool is_host(const char *s) {
    size_t n = strlen(s);
    bool bracketed = n > 2 && s[0] == '[' && s[n - 1] == ']';
    if (n > 253) return false;
    for (size_t i = bracketed; i < n - bracketed; i++) {
        bool letter = (s[i] >= 'a' && s[i] <= 'z') || (s[i] >= 'A' && s[i] <= 'Z'), digit = s[i] >= '0' && s[i] <= '9';
        if (!letter && !digit && s[i] != '.' && s[i] != '-' && s[i] != '_' && !(bracketed && (s[i] == ':' || s[i] == '%'))) return false;
    }
    return true;
}

int settings_resolve(struct service_settings *s, const char *service, struct error *err) {
    int r = 0;
    if (strcmp(s->home, "~") == 0 || strncmp(s->home, "~/", 2) == 0) {
        const char *user_home = getenv("HOME");
        if (!user_home || !*user_home) return error_set(err, E_INVALID, "home: %s cannot be resolved because $HOME is not set", s->home);
        char *rest = mem_strdup(s->home + 1);
        r = rest ? set(&s->home, err, "\1\2", user_home, rest) : E_NOMEM;
        mem_free(rest);
    }
    if (r == 0 && !s->home[0]) r = error_set(err, E_INVALID, "home: a directory is needed");
    if (r == 0 && s->home[0] != '/') { /* sockets and stores are named by absolute paths, wherever the process may change to */
        char *here = realpath(".", NULL), *rest = mem_strdup(s->home);
        r = here && rest ? set(&s->home, err, "\1/\2", here, rest) : E_NOMEM;
        free(here);
        mem_free(rest);
    }
    if (r == 0 && strcmp(s->log, "embedded") == 0) r = set(&s->log, err, "redis+unix:\1/run/log.sock", s->home, "");
    if (r == 0 && !s->redis[0]) r = set(&s->redis, err, "unix:\1/run/cache.sock", s->home, "");
    if (r == 0 && !s->store[0]) r = set(&s->store, err, "file:\1/store", s->home, "");
    if (r == 0 && !s->instance[0]) r = set(&s->instance, err, "\1-1", service, "");
    if (r == 0 && !is_name(s->instance)) r = error_set(err, E_INVALID, "instance: \"%s\" must be of letters, digits, hyphens and dots, at most 64", s->instance);
    if (r == 0 && !s->bus[0]) r = set(&s->bus, err, "ipc://\1/run/\2.bus", s->home, s->instance);
    if (r == 0 && strncmp(s->bus, "ipc://", 6) == 0 && strlen(s->bus) - 6 > 107)
        r = error_set(err, E_INVALID, "bus: %s is longer than a socket's path may be (107 bytes): choose a shorter home", s->bus + 6);
    uint8_t v6[16];
    if (r == 0 && inet_pton(AF_INET6, s->advertise, v6) == 1) r = set(&s->advertise, err, "[\1]", s->advertise, ""); /* as Kubernetes gives a pod's address */
    bool everywhere = strncmp(s->bus, "tcp://*:", 8) == 0 || strncmp(s->bus, "tcp://0.0.0.0:", 14) == 0 || strncmp(s->bus, "tcp://[::]:", 11) == 0;
    if (r == 0 && everywhere && !s->advertise[0]) r = error_set(err, E_INVALID, "bus: %s says nobody where to connect: set advertise to the host name or address of this instance", s->bus);
    if (r == 0 && s->advertise[0] && !is_host(s->advertise)) r = error_set(err, E_INVALID, "advertise: \"%s\" is no host name, IPv4 address or [IPv6 address]; a port does not belong here", s->advertise);
    return r;
}

int settings_advertised(const struct service_settings *s, const char *address, char *out, size_t out_size, struct error *err) {
    const char *scheme = strncmp(address, "tcp://", 6) == 0 ? "tcp://" : "", *port = strrchr(address, ':');
    bool by_path = strncmp(address, "ipc://", 6) == 0 || strncmp(address, "unix:", 5) == 0 || strncmp(address, "systemd:", 8) == 0;
    int n = s->advertise[0] && !by_path && port ? snprintf(out, out_size, "%s%s%s", scheme, s->advertise, port) : snprintf(out, out_size, "%s", address);
    return n >= 0 && (size_t)n < out_size ? 0 : error_set(err, E_INVALID, "advertise: \"%s\" is too long", s->advertise);
}

/* The home's, or the one that the configuration gives: then no file of the home is read or made. */
static int get_keys(const struct service_settings *s, struct bus_keys *keys, struct error *err) {
    char path[4096];
    (void)snprintf(path, sizeof path, "%s/keys", s->home);
    if (s->bus_key && s->bus_key[0]) return bus_keys_from_hex(span_trim(span_str(s->bus_key)), keys) == 0 ? 0 : error_set(err, E_INVALID, "bus_key: it must be 64 hex digits");
    int r = bus_keys_make(path, err);
    return r == 0 ? bus_keys_load(path, keys, err) : r;
}

int settings_make_home(const struct service_settings *s, struct bus_keys *keys, struct error *err) {
    static const struct {
        const char *name;
        mode_t mode;
    } folders[] = {{"run", 0700}, {"keys", 0700}, {"store", 0755}, {"views", 0700}, {"work", 0700}, {"logs", 0755}};
    char path[4096];
    struct buf format;
    int r = dir_make(s->home, err);
    for (size_t i = 0; r == 0 && i < sizeof folders / sizeof *folders; i++) {
        if (snprintf(path, sizeof path, "%s/%s", s->home, folders[i].name) >= (int)sizeof path) return error_set(err, E_INVALID, "home: %s is too long", s->home);
        bool there = file_exists(path);
        r = dir_make(path, err);
        if (r == 0 && !there) (void)chmod(path, folders[i].mode);
    }
    if (r < 0) return r;
    (void)snprintf(path, sizeof path, "%s/format", s->home);
    if (file_exists(path)) {
        buf_init(&format, 64);
        if ((r = file_read(path, &format, err)) == 0 && !span_eq_str(span_trim(buf_span(&format)), "1"))
            r = error_set(err, E_UNSUPPORTED, "the home %s is of format \"%.*s\", this program knows 1: use a newer genloop", s->home, SPAN_ARG(span_trim(buf_span(&format))));
        buf_fini(&format);
    } else {
        r = file_write_durable(path, SPAN("1\n"), 0644, err);
    }
    return r == 0 ? get_keys(s, keys, err) : r;
}
