/*
 * One form for all text: valid UTF-8 in NFC, newlines \n, no control characters (but TEXT_RECORD and TEXT_TURN where the text is made of records), no trailing
 * space, at most one empty line in a row, none at the begin; ends with one newline. Zero-width and direction marks, soft hyphens and the byte order
 * mark go; no-break spaces become spaces. Linear. Pure, thread-safe.
 */
#ifndef GENLOOP_INGEST_NORMALISE_H
#define GENLOOP_INGEST_NORMALISE_H

#include "base/buf.h"
#include "services/ingest/reasons.h"

/*
 * Before extraction: bytes to UTF-8. Valid UTF-8 is borrowed as it is; UTF-16 with its mark is converted; what is no UTF-8 and
 * has no sequence of it either is Windows-1252 (Latin-1), as old manuals are, where less than 30 % of it is beyond ASCII; a few stray bytes
 * (at most one per 1,000) become U+FFFD, counted in *repaired; the rest is REASON_NOT_UTF8. *text: in, or the contents of scratch.
 */
enum reason normalise_decode(struct span in, struct buf *scratch, struct span *text, uint64_t *repaired);
/* After extraction. records: TEXT_RECORD and TEXT_TURN in it were put there by an extractor; in any other text they are control characters like others. Appends to out; failures stay in
 * out->failed. */
void normalise_text(struct span in, bool records, struct buf *out);

#endif
