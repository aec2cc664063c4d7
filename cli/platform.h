/*
 * The one-machine platform as it lies in its home: what genloop.yaml and the environment say of it, which programs make it up, how each is started. Blocking; at start only.
 *
 *   HOME/genloop.yaml         the configuration of all services, made at the first `up`
 *   HOME/supervisor.json      what `scale` said last
 *   HOME/run/supervisor.lock  held by the supervisor that runs; supervisor.sock: its door (control.h); notify.sock: where children say that they are ready
 *   HOME/log/                 the append-only file of the log's Redis
 *   HOME/logs/NAME.log        what each child printed
 */
#ifndef GENLOOP_CLI_PLATFORM_H
#define GENLOOP_CLI_PLATFORM_H

#include <limits.h>

#include "service/settings.h"
#include "supervise.h"

/* In the environment of every child, with the home as its value: a supervisor that comes after a killed one knows by it what is left of that one. */
#define PLATFORM_MARK "GENLOOP_SUPERVISED"

struct platform_settings {
    struct service_settings shared;
    int64_t cache_memory;  /* supervisor.cache_memory */
    int64_t log_file_max;  /* supervisor.log_file_max */
    int64_t log_files;     /* supervisor.log_files */
    char *redis_server;    /* supervisor.redis_server */
};

struct platform {
    char home[PATH_MAX];
    char programs[PATH_MAX]; /* the folder of our own executable */
    struct platform_settings settings;
    char listen[128];        /* of the gateway: "127.0.0.1:8080" */
    unsigned kinds;          /* a bit per supervise_kind that is ours to run */
    int replicas;
};

extern const struct config_row PLATFORM_ROWS[]; /* the section `supervisor` */
extern const size_t PLATFORM_ROWS_COUNT;

/* PATH under the home; E_INVALID where it does not fit. */
int platform_path(const struct platform *p, const char *relative, char *out, size_t out_size, struct error *err);
/* Makes the home where it is missing, reads its configuration and checks that it is one of a platform on one machine. port 0: as configured. */
int platform_open(struct platform *p, const char *home, int port, struct error *err);
void platform_close(struct platform *p);
/* HOME/genloop.yaml as the first `up` writes it. */
int platform_template(const char *listen, struct buf *out);
/* The lock of the home: *fd, or E_EXISTS where a supervisor holds it. Goes with the descriptor. */
int platform_lock(const struct platform *p, int *fd, struct error *err);
/* Whether somebody could listen there now; E_EXISTS with the remedy where not. */
int platform_check_port(const struct platform *p, struct error *err);
/* Ends what a supervisor that was killed left running, and waits for it. */
int platform_sweep(const struct platform *p, struct error *err);
/* Keeps the number of replicas for the next `up`. */
int platform_keep_replicas(const struct platform *p, int replicas, struct error *err);
/* "http://127.0.0.1:8080" */
void platform_url(const struct platform *p, char *out, size_t out_size);

/* How a child is started: argv and env, both NULL-terminated, valid until platform_command_free. */
struct platform_command {
    const char **argv, **env;
    char **texts; /* owned */
    size_t n_argv, n_env, n_texts;
};
int platform_command(const struct platform *p, const struct supervise_child *child, struct platform_command *c, struct error *err);
void platform_command_free(struct platform_command *c);

#endif
