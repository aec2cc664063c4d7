/*
 * A kept response and whom it is about. Requests name their subject (`user`, `safety_identifier`); what is kept of a conversation is sealed with the key of each subject that one of its requests named, one
 * seal around the other, as captured conversations are (store/seal.h): without the key of any of them there is nothing to be read, so that erasing a subject's key erases its responses too. Of a
 * conversation that names nobody nothing is sealed so: it has no subject.
 *
 * In the entry (lib/cache/answers.h), by the items' sources:
 *     0: the record                                  nobody is named
 *     1: a subject's key id, for each; 2: the record, sealed with the first's key, that with the second's, …
 *
 * Sealing and opening read keys' files: on a worker.
 */
#ifndef GATEWAY_RESPONSE_SEAL_H
#define GATEWAY_RESPONSE_SEAL_H

#include "base/buf.h"
#include "base/error.h"
#include "base/json.h"
#include "store/seal.h"

enum {
    RESPONSE_SUBJECTS_MAX = 8,   /* of a conversation: each is a key to be read, and most have one */
    RESPONSE_SEAL_OVERHEAD = RESPONSE_SUBJECTS_MAX * 160, /* what ids, items' heads and seals add to a record */
};
struct response_subjects {
    char ids[RESPONSE_SUBJECTS_MAX][SEAL_KEY_ID_MAX];
    size_t n;
};
/* One that is there already is there once. E_INVALID: no key id; E_FULL. */
int response_subjects_add(struct response_subjects *s, struct span id);
/* Those that a record names, or NULL: none. E_DATA_LOSS, E_FULL. */
int response_subjects_take(struct response_subjects *s, const struct json *record);

/* Appends the items of an entry. E_NOT_FOUND: a subject is erased, and nothing is kept of it any more. */
int response_seal(struct keyring *k, const struct response_subjects *s, struct span record, struct buf *items, struct error *err);
/* What the items of an entry say: *text is the record, or with subjects what response_unseal opens; borrowed. E_DATA_LOSS. */
int response_items_read(struct span items, struct response_subjects *s, struct span *text);
/* E_NOT_FOUND: a subject is erased. */
int response_unseal(struct keyring *k, const struct response_subjects *s, struct span sealed, struct buf *record, struct error *err);

#endif
