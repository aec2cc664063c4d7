/*
 * The shell that every service shares: reads --config, opens what the service asks for (log, store, keyring, bus), serves /livez, /readyz and
 * /metrics on the admin address, announces itself in Redis and over heartbeats, knows the other services' instances, and drains on SIGTERM:
 * readiness goes first, then on_drain, and the process leaves when nothing is open or `drain_ms` is over. A service's main.c is this struct
 * and a call of service_main; its own state hangs on `arg`. All callbacks are on the loop's thread.
 *
 * --config FILE, --check (read the configuration, say what is wrong, exit), --describe (its reference as Markdown), --version, --help.
 * Exit codes: 0 drained, 1 failed, 2 usage or configuration.
 */
#ifndef GENLOOP_SERVICE_SERVICE_H
#define GENLOOP_SERVICE_SERVICE_H

#include "base/config.h"
#include "base/loop.h"
#include "bus/bus.h"
#include "eventlog/eventlog.h"
#include "store/seal.h"
#include "store/store.h"

/* The keys that all services share ("" section). A service's settings struct begins with this. */
struct service_settings {
    char *log;          /* log: embedded | kafka://… ; embedded is redis+unix:HOME/run/log.sock */
    char *log_properties; /* log_properties: librdkafka key=value lines */
    char *store;        /* store: file:DIR */
    char *redis;        /* redis: unix:PATH | redis://… : the cache and membership */
    char *home;         /* home: the data directory: run/ (sockets), keys/, store/, views/, work/ */
    char *instance;     /* instance: "inference-1"; empty: SERVICE-1 */
    char *bus;          /* bus: endpoint of this instance; empty: ipc://HOME/run/INSTANCE.bus */
    char *bus_key;      /* bus_key: the platform's secret key where it comes from outside the home; empty: HOME/keys/bus.key */
    char *advertise;    /* advertise: the host that the others are told for bus and admin; empty: the one that is listened at */
    char *admin;        /* admin: address of /livez, /readyz, /metrics; default 127.0.0.1:0 */
    char *log_level;    /* debug | info | warn | error */
    char *log_format;   /* json | text */
    char *tenant;       /* the tenant where no key says another: "default" */
    int64_t drain_ms;   /* at most so long from SIGTERM to exit, default 30 s */
};
#define SERVICE_ROWS_MAX 16

struct service;
struct service_spec {
    const char *name;                  /* "ingest" */
    const struct config_row *rows;     /* the service's own section */
    size_t n_rows;
    size_t settings_size;              /* of its settings struct, which begins with struct service_settings */
    bool wants_log, wants_store, wants_keyring, wants_bus_server;
    const char *const *peers;          /* services whose instances it calls ("ingest", "inference", …), NULL-terminated; NULL: none */
    const struct bus_server_events *bus; /* where wants_bus_server; arg is the service's */
    /* Whether it could start with these settings, as far as their text says: of --check too, and before anything is opened. E_INVALID names setting, value and what there is. NULL: the rows say all. */
    int (*check)(const void *settings, struct error *err);
    /* Everything is open; set up and call service_ready when requests can be answered. */
    int (*start)(struct service *s, void **arg, struct error *err);
    void (*drain)(struct service *s, void *arg);     /* stop taking work; call service_drained when the last is done. NULL: at once */
    void (*stop)(struct service *s, void *arg);      /* free everything */
    /* A peer lives (at first and with each heartbeat) or is lost; NULL: not wanted. The pointer is good from the first `alive` to the end of the call that says otherwise. */
    void (*on_peer)(struct service *s, void *arg, struct bus_peer *peer, struct span member, bool alive);
};
int service_main(int argc, char **argv, const struct service_spec *spec);

struct loop *service_loop(struct service *s);
const void *service_settings(struct service *s);  /* the whole settings struct */
struct eventlog *service_log(struct service *s);
struct store *service_store(struct service *s);
struct keyring *service_keyring(struct service *s);
struct bus_server *service_bus(struct service *s);
struct bus_client *service_bus_client(struct service *s);
const char *service_instance(struct service *s);
const char *service_path(struct service *s, const char *relative, char *out, size_t out_size); /* under home */
/* A secret that every service of this platform comes to, of `purpose` and nothing else: derived from the bus' secret key, wherever that is from. */
void service_secret(struct service *s, const char *purpose, uint8_t secret[32]);
void service_ready(struct service *s, bool ready);
bool service_is_ready(struct service *s); /* as /readyz says it */
bool service_draining(struct service *s);
void service_drained(struct service *s);
/* A fatal condition: logs, stops, exit code 1. From any thread. */
void service_fail(struct service *s, const struct error *err);
/* Fills in the load that heartbeats and membership carry (packed ReplicaLoad); copied. */
void service_load(struct service *s, struct span replica_load, bool now);
/* How many events this instance is behind the topics that it reads: carried in its heartbeats, shown by `genloop status`. */
void service_lag(struct service *s, uint64_t events);
/* Of a service of which one instance at a time decides: that this is the one. The others' calls come here while it is so. */
void service_leads(struct service *s, bool leads);
/* An instance of a peer service that lives, the one that leads first, then the least busy; NULL where there is none. */
struct bus_peer *service_peer(struct service *s, const char *name);
/* All that are known: on_member(arg, peer or NULL, packed Member, alive), also this instance itself. */
void service_members(struct service *s, void *arg, void (*on_member)(void *arg, struct bus_peer *peer, struct span member, bool alive));

#endif
