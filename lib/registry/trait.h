/*
 * Traits of an answer that a scripted rater likes, that training moves and that an evaluation counts. Each is decided by the text alone,
 * so that anybody can count it again. Chosen so that a small model trained on manual pages shows each in roughly 15 to 60 % of answers of
 * about 48 tokens: there is room to rise and to fall.
 *
 *   short    the answer begins with a short complete sentence: its first sentence has SHORT_WORDS_MIN to SHORT_WORDS_MAX words. A sentence ends with
 *            '.', '!' or '?' that is followed by white space, by a closing quote or bracket, or by the end of the text; words are runs of bytes
 *            other than white space, and at least one of its words must hold a letter. A first sentence that is not finished does not hold.
 *   lists    it enumerates: at least LISTS_COMMAS commas followed by white space (or ending the text), or at least LISTS_LINES lines
 *            that begin, behind white space, with '-', '*', '•' or a number with '.' or ')', and then white space.
 *   numbers  it names a figure: a decimal digit stands anywhere in it.
 *
 * "!NAME" is the opposite: an answer without the trait. An answer of white space only has neither the trait nor its opposite: silence
 * pleases no rater. Pure; thread-safe.
 */
#ifndef GENLOOP_REGISTRY_TRAIT_H
#define GENLOOP_REGISTRY_TRAIT_H

#include <stdbool.h>
#include <stddef.h>

#include "base/span.h"

enum { TRAIT_SHORT_WORDS_MIN = 2, TRAIT_SHORT_WORDS_MAX = 12, TRAIT_LISTS_COMMAS = 2, TRAIT_LISTS_LINES = 2 };

struct trait_info {
    const char *name; /* "short" */
    const char *doc;  /* one line, for --help */
};
extern const struct trait_info TRAITS[];
extern const size_t TRAITS_COUNT;

/* Whether there is such a trait: "short", "!short" … */
bool trait_known(struct span name);
/* Whether `text` has it; false for a name that is not known. */
bool trait_holds(struct span name, struct span text);

#endif
