/*
 * Sealing: what people wrote is kept encrypted with a key of its subject (libsodium secretstream/secretbox, XChaCha20-Poly1305), so that erasing
 * the key erases every copy, also in an append-only log. Keys lie in DIR/KEYID.key (0600), KEYID = keyed hash of the subject's id, made on
 * first use (durably, before anything is sealed with it). Blocking; thread-safe, also between processes (first rename wins).
 */
#ifndef GENLOOP_STORE_SEAL_H
#define GENLOOP_STORE_SEAL_H

#include "base/buf.h"
#include "base/error.h"
#include "base/span.h"

struct keyring;
enum { SEAL_KEY_ID_MAX = 65 };
/* dir: made with mode 0700; also holds the secret of the keyed hash. Returns owned. */
int keyring_open(const char *dir, struct keyring **k, struct error *err);
void keyring_close(struct keyring *k);
/* The id under which a subject's key is kept: what ObjectRef.seal_subject holds. "" is the platform's own subject. */
void keyring_subject_id(struct keyring *k, struct span tenant, struct span subject, char id[SEAL_KEY_ID_MAX]);
int keyring_seal(struct keyring *k, const char *id, struct span plain, struct buf *sealed, struct error *err);
/* E_NOT_FOUND where the key has been erased; E_DATA_LOSS where it does not open. */
int keyring_open_sealed(struct keyring *k, const char *id, struct span sealed, struct buf *plain, struct error *err);
bool keyring_has(struct keyring *k, const char *id); /* whether there is a key: something has been sealed with it, and it is not erased */
int keyring_erase(struct keyring *k, const char *id, struct error *err); /* durable; fine where absent. The id gets a tombstone: it is never made again */

#endif
