/*
 * Obvious personal data, replaced by a word: <EMAIL>, <PHONE>, <IP>, <CARD>, <IBAN>, <SSN>. Checksums are checked where the kind has
 * one (Luhn; ISO 7064 mod 97), and what identifies nobody stays: addresses of documentation, loopback and private networks, example.com, systemd's unit@name.service.
 * One pass; every look around a trigger is bounded, so hostile text costs no more than other text. Pure, thread-safe.
 */
#ifndef GENLOOP_INGEST_PERSONAL_H
#define GENLOOP_INGEST_PERSONAL_H

#include "base/buf.h"

enum personal { PERSONAL_EMAIL, PERSONAL_PHONE, PERSONAL_IP, PERSONAL_CARD, PERSONAL_IBAN, PERSONAL_SSN, PERSONAL_COUNT };
const char *personal_word(enum personal p); /* "<EMAIL>" */
/* Appends text to out with what was found replaced; adds to counts. */
void personal_redact(struct span text, struct buf *out, uint64_t counts[PERSONAL_COUNT]);

#endif
