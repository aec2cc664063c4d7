/*
 * release_model HOME DIR NAME: puts a model directory into the store of a platform that runs in HOME and signs, as its registry would, that NAME@1 is in production. For tests of what serves
 * models that no trainer makes; the gates are not asked.
 */
#include <stdio.h>
#include <string.h>

#include "base/buf.h"
#include "base/clock.h"
#include "eventlog/eventlog.h"
#include "registry/fold.h"
#include "store/store.h"

static int release(const char *home, const char *dir, const char *name, struct error *err) {
    static const model_state states[] = {MODEL_STATE(CANDIDATE), MODEL_STATE(EVALUATED), MODEL_STATE(APPROVED), MODEL_STATE(CANARY), MODEL_STATE(PRODUCTION)};
    char url[600], place[600], keys[600], key[MODEL_FULL_NAME_MAX];
    struct registry_key signing;
    struct eventlog *log = NULL;
    struct store *store = NULL;
    struct object_ref manifest;
    (void)snprintf(url, sizeof url, "redis+unix:%s/run/log.sock", home);
    (void)snprintf(place, sizeof place, "file:%s/store", home);
    (void)snprintf(keys, sizeof keys, "%s/keys", home);
    struct eventlog_config config = {.url = url, .source = "/test"};
    int r = registry_key_load(keys, true, &signing, err);
    if (r == 0) r = eventlog_open(&config, &log, err);
    if (r == 0) r = store_open(place, &store, err);
    if (r == 0) r = store_put_dir(store, dir, &manifest, err);
    for (size_t i = 0; r == 0 && i < sizeof states / sizeof *states; i++) {
        Genloop__V1__ModelVersion v;
        Genloop__V1__ObjectRef directory;
        Genloop__V1__Actor actor;
        uint8_t signature[RECORD_SIGNATURE_SIZE];
        struct buf packed;
        genloop__v1__model_version__init(&v);
        genloop__v1__object_ref__init(&directory);
        genloop__v1__actor__init(&actor);
        directory.sha256 = manifest.sha256;
        directory.size_bytes = manifest.size;
        v.name = (char *)(uintptr_t)name;
        v.version = 1;
        v.state = states[i];
        v.directory = &directory;
        v.actor = &actor;
        v.epoch = 1;
        v.revision = i + 1;
        v.event_time_ms = clock_wall_ms();
        buf_init(&packed, 1 << 16);
        r = record_sign(&signing, &v.base, signature, err);
        if (r == 0 && record_pack(&v.base, &packed) != 0) r = error_set(err, E_NOMEM, "no memory");
        struct event e = {.topic = TOPIC_MODELS, .key = span_str(model_name_format(span_str(name), 1, key)), .value = buf_span(&packed)};
        if (r == 0) r = eventlog_publish(log, &e, err);
        buf_fini(&packed);
    }
    store_close(store);
    eventlog_close(log);
    return r;
}

int main(int argc, char **argv) {
    struct error err = {0};
    if (argc != 4) {
        (void)fprintf(stderr, "usage: release_model HOME DIR NAME\n");
        return 2;
    }
    if (release(argv[1], argv[2], argv[3], &err) == 0) return 0;
    (void)fprintf(stderr, "release_model: %s\n", err.message);
    return 1;
}
